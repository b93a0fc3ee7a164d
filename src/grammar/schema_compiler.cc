// From sets of schemas to alternatives; schema_values.cc has what each type of value becomes.
#include "grammar/schema_compiler.h"

#include <fmt/core.h>

#include <algorithm>

namespace kvasir {

Result<uint32_t> SchemaCompiler::compile(const JsonValue* schema, ValueMode mode) {
  KVASIR_TRY(const uint32_t value, value_of({schema}, mode, false));
  KVASIR_TRY_STATUS(compile_pending());
  return value;
}

Result<uint32_t> SchemaCompiler::value_of(Schemas schemas, ValueMode mode, bool probe) {
  std::sort(schemas.begin(), schemas.end());
  schemas.erase(std::unique(schemas.begin(), schemas.end()), schemas.end());
  Key key{std::move(schemas), mode, probe};
  if (const auto known = values_.find(key); known != values_.end()) return known->second;
  std::string path;
  if (!key.schemas.empty()) {
    KVASIR_TRY(const Schema* first, document_.read(key.schemas[0]));
    path = first->path;
  }
  KVASIR_TRY(const uint32_t value, builder_.add_value(path));
  values_.emplace(key, value);
  pending_.emplace_back(std::move(key), value);
  return value;
}

// Values are compiled from a list and not by recursion, so the depth of a schema costs no stack.
Status SchemaCompiler::compile_pending() {
  while (!pending_.empty()) {
    const auto [key, value] = std::move(pending_.back());
    pending_.pop_back();
    KVASIR_TRY_STATUS(compile_value(key, value));
  }
  return {};
}

Status SchemaCompiler::compile_value(const Key& key, uint32_t value) {
  KVASIR_TRY(const std::vector<Alternative> all, alternatives(key));
  for (const Alternative& alternative : all) KVASIR_TRY_STATUS(add_alternative(alternative, key, value));
  return {};
}

// One value's schemas multiplied out. An item remembers through which schemas of the same value it came: one
// that comes back to itself would say nothing ("what I say, I say"), which no reader expects.
class SchemaCompiler::Expansion {
 public:
  Expansion(SchemaCompiler& compiler, const Key& key) : compiler_(compiler), key_(key) {}

  Result<std::vector<Alternative>> run() {
    partials_.resize(1);
    for (const JsonValue* schema : key_.schemas) partials_[0].open.push_back({schema, -1});
    while (!partials_.empty()) {
      Partial p = std::move(partials_.back());
      partials_.pop_back();
      bool possible = true;
      while (!p.open.empty() && possible) {
        KVASIR_TRY(possible, take(p));
      }
      if (possible) out_.push_back(std::move(p.done));
    }
    return std::move(out_);
  }

 private:
  struct Item {
    const JsonValue* schema;
    int32_t from;  // into trail_, or -1
  };
  struct Partial {
    std::vector<Item> open;
    Alternative done;
  };

  // Takes one open schema; false if it is `false`.
  Result<bool> take(Partial& p) {
    const Item item = p.open.back();
    p.open.pop_back();
    KVASIR_TRY(const Schema* schema, compiler_.document_.read(item.schema));
    KVASIR_TRY_STATUS(check(item, *schema));
    if (schema->never) return false;
    const auto& seen = p.done.sources;
    if (std::find(seen.begin(), seen.end(), item.schema) != seen.end()) return true;
    p.done.sources.push_back(item.schema);
    p.done.schemas.push_back(schema);
    const auto here = static_cast<int32_t>(trail_.size());
    trail_.emplace_back(item.schema, item.from);
    if (schema->ref != nullptr) p.open.push_back({schema->ref, here});
    for (const JsonValue* all : schema->all_of) p.open.push_back({all, here});
    if (!schema->one_of.empty()) KVASIR_TRY_STATUS(compiler_.prove_exclusive(key_, *schema));
    KVASIR_TRY_STATUS(open_choices(p, *schema, here));
    return true;
  }

  Status check(const Item& item, const Schema& schema) {
    const SchemaLimits& limits = compiler_.document_.limits();
    if (++compiler_.steps_ > limits.max_steps || out_.size() + partials_.size() > limits.max_alternatives) {
      return refused(schema, "too many combinations of alternatives");
    }
    size_t length = 0;
    for (int32_t t = item.from; t >= 0; t = trail_[static_cast<size_t>(t)].second) {
      if (trail_[static_cast<size_t>(t)].first == item.schema) {
        return refused(schema, "the schema refers to itself in place");
      }
      if (++length > limits.max_depth) return refused(schema, "too many schemas in one place");
    }
    return {};
  }

  // One branch of each keyword that is there: the first pair goes on in `p`, the others wait.
  Status open_choices(Partial& p, const Schema& schema, int32_t here) {
    if (schema.any_of.empty() && schema.one_of.empty()) return {};
    const auto open = [&](Partial& to, size_t any, size_t one) {
      if (!schema.any_of.empty()) to.open.push_back({schema.any_of[any], here});
      if (!schema.one_of.empty()) to.open.push_back({schema.one_of[one], here});
    };
    const size_t num_any = std::max<size_t>(1, schema.any_of.size());
    const size_t num_one = std::max<size_t>(1, schema.one_of.size());
    if (num_any * num_one + partials_.size() > compiler_.document_.limits().max_alternatives) {
      return refused(schema, "too many combinations of alternatives");
    }
    for (size_t i = 1; i < num_any * num_one; ++i) {
      Partial other = p;
      open(other, i / num_one, i % num_one);
      partials_.push_back(std::move(other));
    }
    open(p, 0, 0);
    return {};
  }

  static Error refused(const Schema& schema, std::string_view what) {
    return {ErrorCode::kUnsupported, fmt::format("{}: {}", schema.path, what)};
  }

  SchemaCompiler& compiler_;
  const Key& key_;
  std::vector<std::pair<const JsonValue*, int32_t>> trail_;
  std::vector<Partial> partials_;
  std::vector<Alternative> out_;
};

Result<std::vector<SchemaCompiler::Alternative>> SchemaCompiler::alternatives(const Key& key) {
  return Expansion(*this, key).run();
}

Status SchemaCompiler::prove_exclusive(const Key& key, const Schema& schema) {
  if (key.probe) return {};
  for (size_t i = 0; i < schema.one_of.size(); ++i) {
    for (size_t j = i + 1; j < schema.one_of.size(); ++j) {
      Schemas both = key.schemas;
      both.push_back(schema.one_of[i]);
      both.push_back(schema.one_of[j]);
      ++steps_;  // checked with the next schema
      KVASIR_TRY(const uint32_t value, value_of(std::move(both), key.mode, true));
      if (!proved_.insert(value).second) continue;
      proofs_.push_back({value, fmt::format("{}/oneOf: a value may be valid against both {} and {}; oneOf is "
                                            "supported only where the branches exclude each other",
                                            schema.path, i, j)});
    }
  }
  return {};
}

Status SchemaCompiler::check_exclusive() const {
  for (const Proof& proof : proofs_) {
    if (builder_.has_text(proof.value)) return Error{ErrorCode::kUnsupported, proof.message};
  }
  return {};
}

Result<std::vector<uint32_t>> SchemaCompiler::compile_parameters(const JsonValue* schema) {
  KVASIR_TRY(const std::vector<Alternative> all, alternatives({{schema}, ValueMode::kObjectOnly, false}));
  std::vector<uint32_t> out;
  for (const Alternative& alternative : all) {
    uint32_t types = kAllTypes;
    for (const Schema* s : alternative.schemas) {
      types &= s->types;
      if (s->values) {
        return Error{ErrorCode::kUnsupported, fmt::format("{}: enum or const of whole arguments", s->path)};
      }
    }
    if ((types & kObjectType) == 0) continue;
    KVASIR_TRY(ObjectDraft draft, object_draft(alternative, false, true));
    out.push_back(builder_.add_parameters(std::move(draft)));
  }
  KVASIR_TRY_STATUS(compile_pending());
  return out;
}

}  // namespace kvasir
