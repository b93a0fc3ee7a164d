// Constraints: the grammar of one request's answer, from its tools and its reply format.
//
// Compiled grammars are kept and shared between requests: agents send the same tools each time. Any thread.
#pragma once

#include <memory>

#include "api/chat_request.h"
#include "base/token_constraint.h"
#include "grammar/vocabulary.h"

namespace kvasir {

class Log;

class Constraints {
 public:
  // `log` outlives this.
  Constraints(std::shared_ptr<const Vocabulary> vocabulary, Log& log);
  ~Constraints();

  // Null: nothing is constrained. An error names the part of a schema that cannot be honoured, for a reply
  // format and for strict tools; for other tools such a part is left free, and logged.
  Result<std::unique_ptr<TokenConstraint>> make(const ChatRequest& request, bool in_reasoning);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvasir
