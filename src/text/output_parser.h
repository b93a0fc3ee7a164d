// OutputParser: sampled text in, what a client sees out: reasoning, content and tool calls.
//
// push() takes the text of each token as it is sampled and says whether it was a special token: </think> and
// ｜DSML｜ are structure only as special tokens. The same characters made of ordinary tokens are text that
// the model quotes, and stay text. Text may be cut anywhere, special tokens included; the output does not
// depend on where. (The detokenizer holds back half characters, so deltas are whole ones if the input is.)
//
//               </think>              <｜DSML｜tool_calls / invoke
//   REASONING ───────────► CONTENT ───────────────────────────► TOOLS ──► DONE     everything after:
//   discarded
//       │                     ▲ ◄── empty block, none offered ──┘ │
//       │ block               │ </think> (the block was text)     └─────► UNUSABLE  until cut_back()
//       └────────► TOOLS, held back ── generation ends ──► executed
//
// Invariants
//  (1) Deltas never contain the special token ｜DSML｜, nor in visible text any other special token.
//  (2) White space before a block that is executed, and the block itself, are in no delta (PAR-3).
//  (3) A call is announced once its whole invoke has been read; then its arguments follow, a JSON object
//      (PAR-5, PAR-6). A call that was announced is never taken back.
//  (4) sampled() is every byte pushed, less what cut_back() took.
// One parser per sequence; no threading of its own. Source: protocol.md section 3 (PAR and MAL rules).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/byte_range.h"
#include "text/chat_message.h"
#include "text/dsml_block.h"

namespace kvasir {

enum class TextKind {
  kPlain,    // of ordinary tokens
  kSpecial,  // the content of an added token, or a piece of it
};

enum class EndCause {
  kStop,   // the end token, or a stop string
  kLength  // a limit on tokens
};

enum class FinishReason { kStop, kLength, kToolCalls };

struct Delta {
  enum class Kind {
    kReasoning,
    kContent,
    kToolCall,   // text is the name; call its index, from 0
    kArguments,  // more of the arguments of `call`
  };

  Kind kind = Kind::kContent;
  std::string text;
  int call = -1;
};

// MAL-9. The engine may cut the sequence back to `cut_at`, call cut_back() and sample again under a grammar.
struct UnusableBlock {
  size_t cut_at = 0;       // byte of sampled(): where the block, or after its last good call the rest, begins
  size_t block_begin = 0;  // byte of sampled(): the block's first '<'
  std::string reason;
};

// What was sampled and is nowhere in the deltas, in bytes.
struct DroppedBytes {
  size_t think_tokens = 0;    // <think> and </think> where they mean nothing (PAR-1)
  size_t special_tokens = 0;  // other special tokens in visible text
  size_t stray_tags = 0;      // closing tags of nothing (MAL-11)
  size_t removed_blocks = 0;  // empty (MAL-10) or not asked for (PAR-7)
  size_t after_block = 0;     // text after an executed block (MAL-12)
};

struct OutputFormat {
  bool in_reasoning = false;  // RenderedPrompt::in_reasoning
  ToolChoice tool_choice = ToolChoice::kAuto;
  std::vector<JsonValue> tools = {};  // function objects that were offered; none: no call is ever surfaced
};

class OutputParser {
 public:
  explicit OutputParser(OutputFormat format);
  OutputParser(const OutputParser&) = delete;
  OutputParser& operator=(const OutputParser&) = delete;

  std::vector<Delta> push(std::string_view text, TextKind kind);
  // Generation has ended. Flushes what was held back; the accessors below are final after it.
  std::vector<Delta> finish(EndCause cause);

  // Nothing that could still come would be shown: the end token came, or an executed block has closed.
  bool is_done() const { return ended_ || (state_ == State::kAfterBlock && !in_reasoning_); }
  // Set by push() or finish() when a block cannot be used; null otherwise.
  const UnusableBlock* unusable() const { return unusable_ ? &*unusable_ : nullptr; }
  // Forgets what was sampled from unusable()->cut_at on; may follow finish(). The next push continues there.
  void cut_back();

  FinishReason finish_reason() const;  // PAR-8
  // The bytes really sampled, for exact replay, and the executed block in them, if any: from its first '<'
  // to after its last '>' (white space before it belongs to it too, and is still in sampled()).
  std::string_view sampled() const { return sampled_; }
  std::optional<ByteRange> block() const { return executed_; }
  const DroppedBytes& dropped() const { return dropped_; }

 private:
  enum class State {
    kText,        // reasoning or content
    kMarker,      // after "<｜DSML｜": a block, or a tag of none
    kStrayTag,    // inside a tag that is swallowed
    kBlock,       // collecting
    kAfterBlock,  // closed: in reasoning not executed yet
    kUnusable,    // nothing more counts until cut_back()
  };
  enum class Special { kThink, kEndThink, kDsml, kEos, kOther };

  void take_plain(std::string_view text);
  void take_special(std::string_view text);
  void flush_partial_special();
  void on_special(Special special, std::string_view text);
  void on_special_in_text(Special special, std::string_view text);
  size_t plain_in_text(std::string_view text);
  size_t plain_in_marker(std::string_view text);
  size_t plain_in_stray_tag(std::string_view text);
  size_t plain_in_block(std::string_view text);
  size_t plain_after_block(std::string_view text);

  void begin_block();
  void drain_block();
  void on_block_closed();
  void remove_block(size_t end);
  void execute_block(size_t end);
  void block_was_reasoning();
  void end_reasoning();
  void mark_unusable(std::string reason);
  void finish_text();
  void finish_marker();
  void finish_block();
  void finish_reasoning_block();

  bool offers_tools() const { return format_.tool_choice != ToolChoice::kNone && !format_.tools.empty(); }
  void show(std::string_view text);
  void show_held();
  void emit_calls();
  void emit(Delta::Kind kind, std::string_view text, int call = -1);

  const OutputFormat format_;
  bool in_reasoning_;
  State state_ = State::kText;
  bool ended_ = false;
  EndCause cause_ = EndCause::kStop;
  bool cut_inside_call_ = false;  // the limit came inside an invoke (MAL-2)

  std::string sampled_;
  size_t taken_ = 0;                // bytes of sampled_ that have gone through a state
  std::string special_;             // start of a special token whose rest has not come
  std::string held_blank_;          // PAR-2: white space that a block may follow
  std::string held_open_;           // "<" or "</" after it
  std::string blank_after_block_;   // in reasoning: white space since a block closed
  std::optional<std::string> gap_;  // after a removed block: the white space before it, shown if text follows
  std::string tag_;                 // kMarker, kStrayTag: what followed ｜DSML｜
  std::optional<DsmlBlock> block_;
  size_t block_begin_ = 0;  // of the current or last block or marker in sampled_
  size_t emitted_ = 0;      // calls of block_ that have been announced
  int next_call_ = 0;
  std::optional<ByteRange> executed_;
  std::optional<UnusableBlock> unusable_;
  DroppedBytes dropped_;
  std::vector<Delta> deltas_;  // of the current push or finish
};

}  // namespace kvasir
