#include "grammar/compile_grammar.h"

#include <fmt/core.h>

#include <memory>
#include <utility>

#include "base/check.h"
#include "grammar/schema_compiler.h"

namespace kvasir {
namespace {

// A schema and what compiles it; compilers stay until the end, since proofs are checked after all are
// settled.
struct Source {
  std::unique_ptr<SchemaDocument> document;
  std::unique_ptr<SchemaCompiler> compiler;
};

class RequestCompiler {
 public:
  explicit RequestCompiler(const GrammarRequest& request) : request_(request), builder_(request.limits) {}

  Result<SharedGrammar> compile() {
    Grammar& grammar = builder_.grammar();
    if (request_.content != GrammarRequest::Content::kNone) KVASIR_TRY_STATUS(add_content());
    if (!request_.tools.empty()) KVASIR_TRY_STATUS(add_tools());
    builder_.settle();
    for (const Source& source : sources_) KVASIR_TRY_STATUS(source.compiler->check_exclusive());
    if (grammar.start.value != kNoNode && !builder_.has_text(grammar.start.value)) {
      return Error{ErrorCode::kInvalid,
                   fmt::format("{}: no value satisfies the schema", request_.schema_path)};
    }
    for (size_t i = 0; i < grammar.block.tools.size(); ++i) {
      std::vector<uint32_t>& choices = grammar.block.tools[i];
      std::erase_if(choices, [&](uint32_t object) { return !builder_.parameters_have_text(object); });
      if (choices.empty()) {
        return Error{ErrorCode::kInvalid,
                     fmt::format("{}/parameters: no arguments satisfy the schema", request_.tools[i].path)};
      }
    }
    return builder_.finish();
  }

 private:
  SchemaCompiler& add_source(JsonValue schema, std::string path, GrammarBuilder& builder) {
    Source& source = sources_.emplace_back();
    source.document = std::make_unique<SchemaDocument>(std::move(schema), std::move(path), request_.limits);
    source.compiler = std::make_unique<SchemaCompiler>(*source.document, builder);
    return *source.compiler;
  }

  Status add_content() {
    const bool object = request_.content == GrammarRequest::Content::kJsonObject;
    JsonValue schema = object ? JsonValue(JsonValue::Object{{"type", JsonValue("object")}}) : request_.schema;
    SchemaCompiler& compiler = add_source(std::move(schema), request_.schema_path, builder_);
    KVASIR_TRY(builder_.grammar().start.value,
               compiler.compile(&sources_.back().document->root(), ValueMode::kJson));
    return {};
  }

  Status add_tools() {
    BlockRule& block = builder_.grammar().block;
    ByteDfaBuilder names;
    for (size_t i = 0; i < request_.tools.size(); ++i) {
      const GrammarTool& tool = request_.tools[i];
      const JsonValue* name = tool.function.find("name");
      if (name == nullptr || !name->is_string() || name->as_string().empty() ||
          name->as_string().find_first_of(std::string_view("\"<>\n\0", 5)) != std::string::npos) {
        return Error{ErrorCode::kInvalid,
                     fmt::format("{}/name: expected a name without '\"', '<', '>' and line ends", tool.path)};
      }
      names.add_word(name->as_string() + '"', static_cast<int32_t>(i));
      KVASIR_TRY(std::vector<uint32_t> objects, tool_parameters(tool));
      block.tools.push_back(std::move(objects));
    }
    block.tool_names = names.finish();
    block.one_call = !request_.parallel_calls;
    builder_.grammar().start.block = true;
    return {};
  }

  Result<std::vector<uint32_t>> tool_parameters(const GrammarTool& tool) {
    const JsonValue* parameters = tool.function.find("parameters");
    const std::string path = tool.path + "/parameters";
    JsonValue schema =
        parameters == nullptr || parameters->is_null() ? JsonValue(JsonValue::Object{}) : *parameters;
    if (!tool.strict) schema = supported_part(schema, path);
    SchemaCompiler& compiler = add_source(std::move(schema), path, builder_);
    return compiler.compile_parameters(&sources_.back().document->root());
  }

  // The schema itself if it compiles; else with every property replaced that does not, and, if that is not
  // enough, only the properties and what is required.
  JsonValue supported_part(const JsonValue& schema, const std::string& path) {
    auto whole = try_parameters(schema, path);
    if (whole) return schema;
    if (!schema.is_object()) return weaken(JsonValue(JsonValue::Object{}), whole.error());
    JsonValue out = schema;
    const JsonValue* properties = schema.find("properties");
    if (properties != nullptr && properties->is_object()) {
      JsonValue::Object kept;
      for (const auto& [name, property] : properties->as_object()) {
        kept.push_back({name, property});
        const Status status = try_property(schema, name, path);
        if (!status) kept.back().value = weaken(type_only(property), status.error());
      }
      out.set("properties", JsonValue(std::move(kept)));
    }
    auto without_those = try_parameters(out, path);
    if (without_those) return out;
    JsonValue::Object frame;
    for (std::string_view key : {"properties", "required", "$defs", "definitions"}) {
      if (const JsonValue* value = out.find(key)) frame.push_back({std::string(key), *value});
    }
    JsonValue reduced(std::move(frame));
    auto last = try_parameters(reduced, path);
    if (last) return weaken(std::move(reduced), without_those.error());
    return weaken(JsonValue(JsonValue::Object{{"additionalProperties", JsonValue(true)}}), last.error());
  }

  JsonValue weaken(JsonValue schema, const Error& reason) {
    builder_.grammar().weakened.push_back(reason.message);
    return schema;
  }

  static JsonValue type_only(const JsonValue& property) {
    const JsonValue* type = property.find("type");
    JsonValue::Object out;
    if (type != nullptr) out.push_back({"type", *type});
    JsonValue alone(std::move(out));
    SchemaDocument document(alone, "");
    return document.read(&document.root()) ? alone : JsonValue(JsonValue::Object{});
  }

  // In a builder of its own, which is thrown away.
  Status try_parameters(const JsonValue& schema, const std::string& path) const {
    SchemaDocument document(schema, path, request_.limits);
    GrammarBuilder builder(request_.limits);
    SchemaCompiler compiler(document, builder);
    auto objects = compiler.compile_parameters(&document.root());
    if (!objects) return objects.error();
    builder.settle();
    KVASIR_TRY_STATUS(compiler.check_exclusive());
    for (uint32_t object : *objects) {
      if (!builder.parameters_have_text(object)) continue;
      auto grammar = builder.finish();
      return grammar ? Status() : Status(grammar.error());
    }
    return Error{ErrorCode::kInvalid, fmt::format("{}: no arguments satisfy the schema", path)};
  }

  Status try_property(const JsonValue& whole, const std::string& name, const std::string& path) const {
    SchemaDocument document(whole, path, request_.limits);
    GrammarBuilder builder(request_.limits);
    SchemaCompiler compiler(document, builder);
    const JsonValue* property = document.property_of_root(name);
    auto value = compiler.compile(property, ValueMode::kJson);
    if (!value) return value.error();
    builder.settle();
    KVASIR_TRY_STATUS(compiler.check_exclusive());
    auto grammar = builder.finish();
    return grammar ? Status() : Status(grammar.error());
  }

  const GrammarRequest& request_;
  GrammarBuilder builder_;
  std::vector<Source> sources_;
};

}  // namespace

Result<SharedGrammar> compile_grammar(const GrammarRequest& request) {
  KVASIR_CHECK(request.content != GrammarRequest::Content::kNone || !request.tools.empty(),
               "nothing is asked for");
  return RequestCompiler(request).compile();
}

}  // namespace kvasir
