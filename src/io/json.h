// JsonDocument: strict JSON in, under limits that a hostile file cannot exceed.
//
// simdjson's DOM behind one call, so that every file kvasir reads has the same limits and the same
// words when something is wrong. Threading: a document is used by one thread.
#pragma once

#include <simdjson.h>

#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace kvasir {

struct JsonLimits {
  int64_t bytes = 0;
  int depth = 0;  // nested arrays and objects
};

class JsonDocument {
 public:
  // `where` names the text in errors (file, and part of it). Errors (all kInvalid): too large, too
  // deep, not JSON, not UTF-8.
  static Result<JsonDocument> parse(std::string_view text, const std::string& where,
                                    const JsonLimits& limits);

  simdjson::dom::element root() const { return root_; }

 private:
  std::unique_ptr<simdjson::dom::parser> parser_;  // owns what root_ points into
  simdjson::dom::element root_;
};

// "an object", "a string", ...: what a value is, for messages.
std::string_view json_kind(simdjson::dom::element value);

}  // namespace kvasir
