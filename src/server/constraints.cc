#include "server/constraints.h"
namespace kvasir {
struct Constraints::Impl {};
Constraints::Constraints(const Tokenizer&, int32_t, int64_t, Log&) {}
Constraints::~Constraints() = default;
Result<std::unique_ptr<TokenConstraint>> Constraints::make(const ChatRequest&, bool) { return std::unique_ptr<TokenConstraint>(); }
}  // namespace kvasir
