// One alternative, a set of plain schemas, by the type of value.
#include <fmt/core.h>

#include <algorithm>

#include "grammar/schema_compiler.h"

namespace kvasir {
namespace {

Error located(const Error& error, const std::string& path) {
  return {error.code, fmt::format("{}: {}", path, error.message)};
}

// As a name in a tag cannot hold them (MAL-14).
CodePointDfa tag_names() {
  CodePointDfa out;
  const CodePointSet set = complement(normalized({{0, 0x1f}, {'"', '"'}, {'<', '<'}, {'>', '>'}}));
  out.states.resize(2);
  out.states[1].label = 0;
  for (auto& state : out.states) {
    for (const CodePointRange& r : set) state.edges.push_back({r.lo, r.hi, 1});
  }
  return out;
}

int32_t both(int32_t, int32_t) { return 0; }

}  // namespace

Status SchemaCompiler::add_alternative(const Alternative& alternative, const Key& key, uint32_t value) {
  uint32_t types = kAllTypes | kIntegerType;
  const Schema* listed = nullptr;
  for (const Schema* s : alternative.schemas) {
    types &= (s->types & kNumberType) != 0 ? s->types | kIntegerType : s->types;
    if (s->values && listed == nullptr) listed = s;
  }
  if (key.mode == ValueMode::kNotString) types &= ~uint32_t{kStringType};
  if (key.mode == ValueMode::kRawString) types &= kStringType;
  if (key.mode == ValueMode::kObjectOnly) types &= kObjectType;
  if (listed != nullptr) {
    std::vector<JsonValue> values;
    for (const JsonValue& v : *listed->values) {
      bool ok = (types & type_of(v)) != 0 || (v.is_number() && (types & kIntegerType) != 0);
      for (size_t i = 0; i < alternative.schemas.size() && ok; ++i) {
        const Schema& s = *alternative.schemas[i];
        if (&s != listed) {
          KVASIR_TRY(ok, document_.admits_listed(s, v));
        }
        if (ok) {
          KVASIR_TRY(ok, document_.admits_own(s, v));
        }
      }
      if (ok) values.push_back(v);
    }
    return add_values(alternative, values, key, value);
  }
  ByteDfaBuilder words;
  if ((types & kNullType) != 0) words.add_word("null");
  if ((types & kBoolType) != 0) {
    words.add_word("true");
    words.add_word("false");
  }
  if (words.num_states() > 0) builder_.add_dfa(value, words.finish());
  if ((types & kIntegerType) != 0)
    KVASIR_TRY_STATUS(add_number(alternative, (types & kNumberType) == 0, value));
  if ((types & kStringType) != 0) KVASIR_TRY_STATUS(add_string(alternative, key.mode, value));
  if ((types & kArrayType) != 0) KVASIR_TRY_STATUS(add_array(alternative, key.probe, value));
  if ((types & kObjectType) != 0) KVASIR_TRY_STATUS(add_object(alternative, key.probe, value));
  return {};
}

Status SchemaCompiler::add_values(const Alternative& alternative, const std::vector<JsonValue>& values,
                                  const Key& key, uint32_t value) {
  const std::string path = alternative.schemas.empty() ? "" : alternative.schemas[0]->path;
  ByteDfaBuilder words;
  for (const JsonValue& v : values) {
    if (v.is_array() || v.is_object()) {
      ArrayRule array;  // each part is a constant of its own
      ObjectDraft object;
      const auto constant = [&](const JsonValue& part) {
        return value_of({document_.add_constant(part, path)}, ValueMode::kJson, key.probe);
      };
      if (v.is_array()) {
        for (const JsonValue& item : v.as_array()) {
          KVASIR_TRY(const uint32_t node, constant(item));
          array.prefix.push_back(node);
        }
        array.min = array.max = static_cast<uint32_t>(array.prefix.size());
        builder_.add_array(value, std::move(array));
        continue;
      }
      object.path = path;
      for (const auto& [name, member] : v.as_object()) {
        KVASIR_TRY(const uint32_t node, constant(member));
        object.properties.push_back({name, {node, kNoNode}, true, true});
      }
      if (object.properties.size() > PropertySet::kMaxSize - 1) {
        return Error{ErrorCode::kUnsupported, fmt::format("{}: an object of too many properties", path)};
      }
      builder_.add_object(value, std::move(object));
      continue;
    }
    std::vector<std::string> spellings = {key.mode == ValueMode::kRawString ? v.as_string() : v.dump()};
    if (v.is_number()) KVASIR_TRY_STATUS(literal_words(v, spellings));
    for (const std::string& word : spellings) words.add_word(word);
    if (words.num_states() > document_.limits().max_text_states) {
      return Error{ErrorCode::kUnsupported, fmt::format("{}: the values are too many or too long", path)};
    }
  }
  if (words.num_states() > 0) builder_.add_dfa(value, words.finish());
  return {};
}

// 1.0 and 1e2 are also spelled 1 and 100.
Status SchemaCompiler::literal_words(const JsonValue& value, std::vector<std::string>& words) {
  KVASIR_TRY(const Decimal number, Decimal::parse(value.dump()));
  std::string plain = (number.negative ? "-" : "") + number.whole;
  if (!number.fraction.empty()) plain += "." + number.fraction;
  words.push_back(std::move(plain));
  return {};
}

Status SchemaCompiler::add_number(const Alternative& alternative, bool integer, uint32_t value) {
  NumberBounds bounds{.integer = integer};
  std::string path;
  for (const Schema* s : alternative.schemas) {
    const Status status = tighten(bounds, s->bounds);
    if (!status) return located(status.error(), s->path);
    path = s->path;
  }
  auto dfa = number_dfa(bounds);
  if (!dfa) return located(dfa.error(), path);
  builder_.add_dfa(value, *std::move(dfa));
  return {};
}

// The strings that match every pattern, within the lengths.
Result<CodePointDfa> SchemaCompiler::text_of(const Alternative& alternative) {
  uint32_t min = 0, max = kUnbounded;
  for (const Schema* s : alternative.schemas) {
    min = std::max(min, s->min_length);
    max = std::min(max, s->max_length);
  }
  CodePointDfa text = text_of_length(0, kUnbounded);
  const std::string path = alternative.schemas.empty() ? "" : alternative.schemas.back()->path;
  if (min > 0 || max != kUnbounded) {
    if ((max == kUnbounded ? min : max) > document_.limits().max_length) {
      return Error{ErrorCode::kUnsupported,
                   fmt::format("{}: a length above {} beside a pattern or format",
                               pointer(path, max == kUnbounded ? "minLength" : "maxLength"),
                               document_.limits().max_length)};
    }
    text = text_of_length(min, max);
  }
  for (const Schema* s : alternative.schemas) {
    for (const auto& pattern : s->patterns) {
      auto joined = intersect(text, *pattern, both, builder_.limits().max_text_states);
      if (!joined) return located(joined.error(), s->path);
      text = *std::move(joined);
    }
  }
  return text;
}

Status SchemaCompiler::add_string(const Alternative& alternative, ValueMode mode, uint32_t value) {
  const bool raw = mode == ValueMode::kRawString;
  CountedRule lengths;
  bool has_pattern = false;
  for (const Schema* s : alternative.schemas) {
    lengths.min = std::max(lengths.min, s->min_length);
    lengths.max = std::min(lengths.max, s->max_length);
    has_pattern = has_pattern || !s->patterns.empty();
  }
  if (has_pattern) {
    KVASIR_TRY(const CodePointDfa text, text_of(alternative));
    return builder_.add_text(value, text, raw ? TextForm::kRaw : TextForm::kJson,
                             alternative.schemas.back()->path);
  }
  const AnyText& any = raw ? any_raw_text() : any_json_string();
  lengths.dfa = any.dfa;
  lengths.body = any.body;
  if (lengths.min == 0 && lengths.max == kUnbounded) {
    builder_.add_dfa(value, any.dfa);
  } else {
    builder_.add_counted(value, std::move(lengths));
  }
  return {};
}

// The names that propertyNames leaves to keys of no property.
Result<CodePointDfa> SchemaCompiler::names_allowed(const JsonValue* schema) {
  KVASIR_TRY(const std::vector<Alternative> all, alternatives({{schema}, ValueMode::kRawString, true}));
  KVASIR_TRY(const Schema* root, document_.read(schema));
  if (all.empty()) return CodePointDfa();
  if (all.size() > 1) {
    return Error{ErrorCode::kUnsupported, fmt::format("{}: alternatives of property names", root->path)};
  }
  std::optional<std::vector<JsonValue>> listed;
  for (const Schema* s : all[0].schemas) {
    if ((s->types & kStringType) == 0) return CodePointDfa();
    if (s->values) listed = s->values;
  }
  if (!listed) return text_of(all[0]);
  std::vector<std::string> names;
  for (const JsonValue& name : *listed) {
    KVASIR_TRY(const bool ok, document_.admits(schema, name));
    if (ok && std::find(names.begin(), names.end(), name.as_string()) == names.end())
      names.push_back(name.as_string());
  }
  CodePointDfa dfa = names_and_rest(names);
  for (auto& state : dfa.states) {
    state.label = state.label == static_cast<int32_t>(names.size()) ? CodePointDfa::kNone : 0;
  }
  return trimmed(dfa);
}

Result<bool> SchemaCompiler::says_no_other(const Alternative& alternative) {
  for (const Schema* s : alternative.schemas) {
    if (s->additional == nullptr) continue;
    KVASIR_TRY(const Schema* additional, document_.read(s->additional));
    if (additional->never) return true;
  }
  return false;
}

Status SchemaCompiler::add_array(const Alternative& alternative, bool probe, uint32_t value) {
  ArrayRule rule;
  size_t prefix = 0;
  for (const Schema* s : alternative.schemas) {
    prefix = std::max(prefix, s->prefix.size());
    rule.min = std::max(rule.min, s->min_items);
    rule.max = std::min(rule.max, s->max_items);
  }
  for (size_t i = 0; i <= prefix; ++i) {
    Schemas item;
    for (const Schema* s : alternative.schemas) {
      const JsonValue* schema = i < s->prefix.size() ? s->prefix[i] : s->items;
      if (schema != nullptr) item.push_back(schema);
    }
    KVASIR_TRY(const uint32_t node, value_of(std::move(item), ValueMode::kJson, probe));
    if (i < prefix) {
      rule.prefix.push_back(node);
    } else {
      rule.rest = node;
    }
  }
  builder_.add_array(value, std::move(rule));
  return {};
}

Status SchemaCompiler::add_object(const Alternative& alternative, bool probe, uint32_t value) {
  KVASIR_TRY(ObjectDraft draft, object_draft(alternative, probe, false));
  builder_.add_object(value, std::move(draft));
  return {};
}

Result<ObjectRule::Value> SchemaCompiler::child(Schemas schemas, bool probe, bool parameters) {
  ObjectRule::Value out;
  if (!parameters) {
    KVASIR_TRY(out.json, value_of(std::move(schemas), ValueMode::kJson, probe));
    return out;
  }
  KVASIR_TRY(out.json, value_of(schemas, ValueMode::kNotString, probe));
  KVASIR_TRY(out.raw, value_of(std::move(schemas), ValueMode::kRawString, probe));
  return out;
}

Result<ObjectDraft> SchemaCompiler::object_draft(const Alternative& alternative, bool probe,
                                                 bool parameters) {
  ObjectDraft draft;
  draft.form = parameters ? TextForm::kName : TextForm::kKey;
  std::map<std::string, size_t> places;
  const auto place = [&](const std::string& name) -> ObjectDraft::Property& {
    const auto [at, added] = places.try_emplace(name, draft.properties.size());
    if (added) draft.properties.push_back({.name = name, .value = {}});
    return draft.properties[at->second];
  };
  bool says_other = false;  // some schema says what other keys may be
  Schemas other;
  for (const Schema* s : alternative.schemas) {
    for (const auto& property : s->properties) place(property.first);
    for (const std::string& name : s->required) place(name).required = true;
    draft.min_properties = std::max(draft.min_properties, s->min_properties);
    draft.max_properties = std::min(draft.max_properties, s->max_properties);
    if (draft.path.empty()) draft.path = s->path;
    says_other = says_other || s->additional != nullptr;
    if (s->additional != nullptr) other.push_back(s->additional);
  }
  if (draft.properties.size() > PropertySet::kMaxSize - 1) {  // the last is for keys of no property
    return Error{ErrorCode::kUnsupported,
                 fmt::format("{}: more than {} properties", draft.path, PropertySet::kMaxSize - 1)};
  }
  for (ObjectDraft::Property& p : draft.properties) {
    Schemas schemas;
    for (const Schema* s : alternative.schemas) {
      const JsonValue* schema = s->property(p.name);
      if (schema == nullptr) schema = s->additional;
      if (schema != nullptr) schemas.push_back(schema);
    }
    KVASIR_TRY(p.value, child(std::move(schemas), probe, parameters));
  }
  if (!parameters || says_other) {
    KVASIR_TRY(draft.other, child(std::move(other), probe, parameters));
  }
  KVASIR_TRY_STATUS(add_names(alternative, draft));
  return draft;
}

Status SchemaCompiler::add_names(const Alternative& alternative, ObjectDraft& draft) {
  const bool counts = draft.min_properties > 1 || draft.max_properties != kUnbounded;
  if (counts && draft.other.json != kNoNode && draft.max_properties > 0) {
    KVASIR_TRY(const bool none, says_no_other(alternative));
    if (!none) {
      return Error{
          ErrorCode::kUnsupported,
          fmt::format("{}: this is supported only beside \"additionalProperties\": false",
                      pointer(draft.path, draft.min_properties > 1 ? "minProperties" : "maxProperties"))};
    }
  }
  std::shared_ptr<CodePointDfa> names;
  if (draft.form == TextForm::kName) names = std::make_shared<CodePointDfa>(tag_names());
  for (ObjectDraft::Property& p : draft.properties) {
    if (draft.form != TextForm::kName || names->label_of(p.name) != CodePointDfa::kNone) continue;
    return Error{
        ErrorCode::kUnsupported,
        fmt::format("{}: a parameter name cannot be empty or hold '\"', '<', '>' or a control character",
                    pointer(pointer(draft.path, "properties"), p.name))};
  }
  for (const Schema* s : alternative.schemas) {
    if (s->names == nullptr) continue;
    for (ObjectDraft::Property& p : draft.properties) {
      KVASIR_TRY(const bool ok, document_.admits(s->names, JsonValue(p.name)));
      p.allowed = p.allowed && ok;
    }
    KVASIR_TRY(CodePointDfa allowed, names_allowed(s->names));
    if (names != nullptr) {
      KVASIR_TRY(allowed, intersect(*names, allowed, both, builder_.limits().max_text_states));
    }
    names = std::make_shared<CodePointDfa>(std::move(allowed));
  }
  draft.other_names = std::move(names);
  if (draft.other_names == nullptr) return {};
  // With every allowed name a property's, there are no other keys.
  std::vector<std::string> taken;
  for (const ObjectDraft::Property& p : draft.properties) taken.push_back(p.name);
  const auto only_rest = [&](int32_t name, int32_t) {
    return name == static_cast<int32_t>(taken.size()) ? 0 : CodePointDfa::kNone;
  };
  KVASIR_TRY(const CodePointDfa rest, intersect(names_and_rest(taken), *draft.other_names, only_rest,
                                                builder_.limits().max_text_states));
  if (rest.states.empty()) draft.other = {};
  return {};
}

}  // namespace kvasir
