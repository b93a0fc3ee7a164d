// Limits and error texts around simdjson. Depth is checked by simdjson itself while it parses, so a
// text of a million brackets fails at bracket number `depth`.
#include "io/json.h"

#include <fmt/core.h>

#include <algorithm>

namespace kvasir {

Result<JsonDocument> JsonDocument::parse(std::string_view text, const std::string& where,
                                         const JsonLimits& limits) {
  if (static_cast<int64_t>(text.size()) > limits.bytes) {
    return Error{ErrorCode::kInvalid,
                 fmt::format("{}: {} bytes of JSON, expected at most {}", where, text.size(), limits.bytes)};
  }
  if (text.empty()) return Error{ErrorCode::kInvalid, fmt::format("{}: empty, expected JSON", where)};
  JsonDocument document;
  document.parser_ = std::make_unique<simdjson::dom::parser>(static_cast<size_t>(limits.bytes));
  simdjson::error_code error =
      document.parser_->allocate(std::max<size_t>(text.size(), 64), static_cast<size_t>(limits.depth));
  if (!error) error = document.parser_->parse(text.data(), text.size()).get(document.root_);
  if (error == simdjson::DEPTH_ERROR) {
    return Error{ErrorCode::kInvalid,
                 fmt::format("{}: JSON nested deeper than {} levels", where, limits.depth)};
  }
  if (error == simdjson::MEMALLOC) {
    return Error{ErrorCode::kBusy,
                 fmt::format("{}: no memory to parse {} bytes of JSON", where, text.size())};
  }
  if (error)
    return Error{ErrorCode::kInvalid, fmt::format("{}: not valid JSON: {}", where, error_message(error))};
  return document;
}

std::string_view json_kind(simdjson::dom::element value) {
  switch (value.type()) {
    case simdjson::dom::element_type::ARRAY:
      return "an array";
    case simdjson::dom::element_type::OBJECT:
      return "an object";
    case simdjson::dom::element_type::INT64:
    case simdjson::dom::element_type::UINT64:
      return "an integer";
    case simdjson::dom::element_type::DOUBLE:
      return "a number";
    case simdjson::dom::element_type::STRING:
      return "a string";
    case simdjson::dom::element_type::BOOL:
      return "a boolean";
    case simdjson::dom::element_type::NULL_VALUE:
      return "null";
  }
  return "something else";
}

}  // namespace kvasir
