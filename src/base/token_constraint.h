// TokenConstraint: which tokens may come next, for whoever samples.
//
// The engine asks before each sample and tells it after each token that stays in the text; drafts that were
// rejected are never told, so nothing is taken back. Used by one thread at a time. Made where text is known
// (grammar/); the engine sees only this.
#pragma once

#include <cstdint>
#include <span>

namespace kvasir {

class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;

  // Token i is bit i % 32 of word i / 32; every bit is set on entry. Clears those of the tokens that may not come
  // next and returns true; returns false and leaves the mask alone where anything may come. At least one
  // token always stays possible.
  virtual bool restrict(std::span<uint32_t> mask) = 0;

  // The token that may not come next, where every other one may: who asks first needs no mask then. -1: ask restrict().
  virtual int32_t only_ban() const { return -1; }

  // `token` is now the last token of the text.
  virtual void accept(int32_t token) = 0;
};

}  // namespace kvasir
