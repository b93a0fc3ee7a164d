// Fuzzes the output parser with completions of its own vocabulary: pieces of tags, special tokens,
// look-alikes and raw bytes, cut into chunks.
//
// Checked: the output does not depend on the chunks, the arguments of every call are a JSON object, no marker
// reaches the output unless ordinary tokens spelled it, nothing sampled is forgotten, and sampling can go on
// from an unusable block's cut.
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "text/output_parser.h"
#include "text/special_text.h"

namespace kvasir {
namespace {

struct Piece {
  std::string text;
  TextKind kind = TextKind::kPlain;
};

constexpr std::array<std::string_view, 5> kSpecials = {kDsmlText, kEndThinkText, kThinkText, kEosText,
                                                       kUserText};
constexpr std::array<std::string_view, 44> kWords = {"<",
                                                     "</",
                                                     ">",
                                                     "tool_calls",
                                                     "tool_calls>",
                                                     "invoke",
                                                     "invoke>",
                                                     "invoke name=\"f\">",
                                                     "parameter",
                                                     "parameter>",
                                                     "parameter name=\"s\" string=\"true\">",
                                                     "parameter name=\"n\" string=\"false\">",
                                                     "parameter name=\"o\">",
                                                     " name=\"",
                                                     " string=\"true\"",
                                                     " string=\"false\"",
                                                     "\"",
                                                     "\">",
                                                     "\n",
                                                     "\n\n",
                                                     " ",
                                                     "a",
                                                     "f",
                                                     "1",
                                                     "-1.50",
                                                     "true",
                                                     "null",
                                                     "{",
                                                     "}",
                                                     "{\"s\": 1}",
                                                     "[",
                                                     "]",
                                                     "[[]]",
                                                     ",",
                                                     ": ",
                                                     "arguments",
                                                     "input",
                                                     "<tool_result>",
                                                     "\\",
                                                     "function_calls>",
                                                     "x=",
                                                     "<parameter name=\"a\" string=\"true\">",
                                                     "</parameter>",
                                                     "</invoke>"};
constexpr std::array<std::string_view, 2> kLookAlikes = {kDsmlText, "|DSML|"};

const OutputFormat& format_for(uint8_t flags) {
  static const auto make = [](bool in_reasoning, ToolChoice choice) {
    const auto tools = JsonValue::parse(R"([{"name":"f","parameters":{"properties":{"s":{"type":"string"},
        "n":{"type":"integer"},"o":{"type":["object","array"]},"a":{}}}}])");
    return OutputFormat{.in_reasoning = in_reasoning, .tool_choice = choice, .tools = tools->as_array()};
  };
  static const std::array<OutputFormat, 4> formats = {
      make(false, ToolChoice::kAuto), make(true, ToolChoice::kAuto), make(false, ToolChoice::kNone),
      make(true, ToolChoice::kNone)};
  return formats[flags & 3];
}

// Each byte is a word, a special token, or the next byte as it is.
std::vector<Piece> pieces_of(const uint8_t* data, size_t size, bool& spells_marker) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < size; ++i) {
    const uint8_t op = data[i];
    if (op < 0x80) {
      pieces.push_back({std::string(kWords[op % kWords.size()]), TextKind::kPlain});
    } else if (op < 0xC0) {
      pieces.push_back({std::string(kSpecials[op % kSpecials.size()]), TextKind::kSpecial});
    } else if (op < 0xD0) {
      pieces.push_back({std::string(kLookAlikes[op % kLookAlikes.size()]), TextKind::kPlain});
      spells_marker = true;
    } else if (i + 1 < size) {
      const char c = static_cast<char>(data[++i] == 0xEF ? 'x' : data[i]);  // 0xEF begins the marker's bar
      pieces.push_back({std::string(1, c), op < 0xF0 ? TextKind::kPlain : TextKind::kSpecial});
    }
  }
  return pieces;
}

struct Output {
  std::string reasoning, content;
  std::vector<std::pair<std::string, std::string>> calls;
  FinishReason finish = FinishReason::kStop;
  std::string unusable;
  size_t cut_at = 0;

  bool operator==(const Output&) const = default;
};

void add(const std::vector<Delta>& deltas, Output& out) {
  for (const Delta& delta : deltas) {
    switch (delta.kind) {
      case Delta::Kind::kReasoning:
        out.reasoning += delta.text;
        break;
      case Delta::Kind::kContent:
        out.content += delta.text;
        break;
      case Delta::Kind::kToolCall:
        out.calls.push_back({delta.text, ""});
        break;
      case Delta::Kind::kArguments:
        out.calls.at(delta.call).second += delta.text;
        break;
    }
  }
}

// chunk == 0: as sampled; otherwise pushes of at most `chunk` bytes.
Output parse(const std::vector<Piece>& pieces, const OutputFormat& format, EndCause cause, size_t chunk) {
  OutputParser parser(format);
  Output out;
  std::string all;
  for (const Piece& p : pieces) {
    for (size_t at = 0; at < p.text.size();) {
      const std::string part = p.text.substr(at, chunk == 0 ? std::string::npos : chunk);
      add(parser.push(part, p.kind), out);
      at += part.size();
    }
    all += p.text;
  }
  add(parser.finish(cause), out);
  KVASIR_CHECK(parser.sampled() == all, "sampled text differs");
  out.finish = parser.finish_reason();
  if (const auto block = parser.block())
    KVASIR_CHECK(block->end <= all.size(), "block ends at {}", block->end);
  if (const UnusableBlock* unusable = parser.unusable()) {
    out.unusable = unusable->reason;
    out.cut_at = unusable->cut_at;
    KVASIR_CHECK(unusable->block_begin <= out.cut_at && out.cut_at < all.size());
    KVASIR_CHECK(all[unusable->block_begin] == '<');
    parser.cut_back();
    KVASIR_CHECK(parser.sampled() == all.substr(0, out.cut_at));
    for (const Piece& p : pieces) add(parser.push(p.text, p.kind), out);
    add(parser.finish(cause), out);
  }
  return out;
}

void check_output(const Output& out, bool spells_marker) {
  for (const auto& [name, arguments] : out.calls) {
    const auto parsed = JsonValue::parse(arguments);
    KVASIR_CHECK(parsed && parsed->is_object(), "arguments {}", arguments);
    KVASIR_CHECK(!name.empty() && name.find_first_of("\"<>\n") == std::string::npos, "name {}", name);
    KVASIR_CHECK(spells_marker || arguments.find(kDsmlText) == std::string::npos, "arguments {}", arguments);
  }
  for (const std::string* text : {&out.reasoning, &out.content}) {
    KVASIR_CHECK(spells_marker || text->find(kDsmlText) == std::string::npos, "text {}", *text);
  }
}

void run(const uint8_t* data, size_t size) {
  const OutputFormat& format = format_for(data[0]);
  const EndCause cause = data[0] & 4 ? EndCause::kLength : EndCause::kStop;
  bool spells_marker = false;
  const std::vector<Piece> pieces = pieces_of(data + 1, size - 1, spells_marker);
  const Output whole = parse(pieces, format, cause, 0);
  check_output(whole, spells_marker);
  for (size_t chunk : {size_t{1}, size_t{2}, size_t{2} + data[0] / 8}) {
    KVASIR_CHECK(parse(pieces, format, cause, chunk) == whole, "differs in chunks of {}", chunk);
  }
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 0) kvasir::run(data, size);
  return 0;
}
