// Conversations: prompts with known answers. The answers come from a server without a disk tier that forgets
// each prompt once it is answered, so that none of them was helped by a cache.
#pragma once

#include <string>
#include <vector>

#include "serve_faults/child_server.h"

namespace kvasir {

struct KnownPrompt {
  std::string session;   // its session's id
  int conversation = 0;  // prompts of one conversation begin alike
  Json request;          // greedy, with log probabilities, as many tokens as it asks for
  Json expected;         // choices[0], as the server without a cache gave it
  int64_t tokens = 0;    // of the prompt
};

class Conversations {
 public:
  // `count` conversations of three turns, every third one with a fork after its first turn. Empty `error()`:
  // all is there.
  Conversations(const ChildServer::Start& reference, int count, unsigned seed);
  const std::vector<KnownPrompt>& prompts() const { return prompts_; }
  const std::string& error() const { return error_; }

  // Of an answer with status 200: empty if it is the known one, else what differs.
  static std::string difference(const KnownPrompt& prompt, const Answer& answer);
  static int64_t hit_tokens(const Answer& answer);

 private:
  bool add(int port, int number, const std::string& session, Json messages);

  std::vector<KnownPrompt> prompts_;
  std::string error_;
};

}  // namespace kvasir
