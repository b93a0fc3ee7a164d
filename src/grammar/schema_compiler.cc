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

// Breadth first over partly expanded sets. An item remembers through which schemas of the same value it came:
// one that comes back to itself would say nothing ("what I say, I say"), which no reader expects.
Result<std::vector<SchemaCompiler::Alternative>> SchemaCompiler::alternatives(const Key& key) {
  struct Item {
    const JsonValue* schema;
    int32_t from;  // into `trail`, -1
  };
  struct Partial {
    std::vector<Item> open;
    Alternative done;
  };
  std::vector<std::pair<const JsonValue*, int32_t>> trail;
  std::vector<Partial> partials(1);
  for (const JsonValue* schema : key.schemas) partials[0].open.push_back({schema, -1});
  std::vector<Alternative> out;
  while (!partials.empty()) {
    Partial p = std::move(partials.back());
    partials.pop_back();
    bool dead = false;
    while (!p.open.empty() && !dead) {
      const Item item = p.open.back();
      p.open.pop_back();
      KVASIR_TRY(const Schema* schema, document_.read(item.schema));
      const auto too_many = [&](std::string_view what) {
        return Error{ErrorCode::kUnsupported, fmt::format("{}: {}", schema->path, what)};
      };
      if (++steps_ > document_.limits().max_steps ||
          out.size() + partials.size() > document_.limits().max_alternatives) {
        return too_many("too many combinations of alternatives");
      }
      size_t length = 0;
      for (int32_t t = item.from; t >= 0; t = trail[static_cast<size_t>(t)].second) {
        if (trail[static_cast<size_t>(t)].first == item.schema)
          return too_many("the schema refers to itself in place");
        if (++length > document_.limits().max_depth) return too_many("too many schemas in one place");
      }
      if (schema->never) dead = true;
      const auto& seen = p.done.sources;
      if (dead || std::find(seen.begin(), seen.end(), item.schema) != seen.end()) continue;
      p.done.sources.push_back(item.schema);
      p.done.schemas.push_back(schema);
      const auto here = static_cast<int32_t>(trail.size());
      trail.emplace_back(item.schema, item.from);
      if (schema->ref != nullptr) p.open.push_back({schema->ref, here});
      for (const JsonValue* all : schema->all_of) p.open.push_back({all, here});
      if (!schema->one_of.empty()) KVASIR_TRY_STATUS(prove_exclusive(key, *schema));
      if (schema->any_of.empty() && schema->one_of.empty()) continue;
      // One of each keyword that is there; the first pair goes on here, the others wait.
      const auto open_choice = [&](Partial& to, size_t any, size_t one) {
        if (!schema->any_of.empty()) to.open.push_back({schema->any_of[any], here});
        if (!schema->one_of.empty()) to.open.push_back({schema->one_of[one], here});
      };
      const size_t num_any = std::max<size_t>(1, schema->any_of.size());
      const size_t num_one = std::max<size_t>(1, schema->one_of.size());
      if (num_any * num_one + partials.size() > document_.limits().max_alternatives) {
        return too_many("too many combinations of alternatives");
      }
      for (size_t i = 1; i < num_any * num_one; ++i) {
        Partial other = p;
        open_choice(other, i / num_one, i % num_one);
        partials.push_back(std::move(other));
      }
      open_choice(p, 0, 0);
    }
    if (!dead) out.push_back(std::move(p.done));
  }
  return out;
}

Status SchemaCompiler::prove_exclusive(const Key& key, const Schema& schema) {
  if (key.probe) return {};
  for (size_t i = 0; i < schema.one_of.size(); ++i) {
    for (size_t j = i + 1; j < schema.one_of.size(); ++j) {
      Schemas both = key.schemas;
      both.push_back(schema.one_of[i]);
      both.push_back(schema.one_of[j]);
      KVASIR_TRY(const uint32_t value, value_of(std::move(both), key.mode, true));
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
