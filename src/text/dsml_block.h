// DsmlBlock: one tool block while it is being sampled, from the '<' of its first tag on.
//
// Text is collected until a strict closing tag (one with the special token ｜DSML｜) ends an invoke; then the
// whole invoke is read at once and becomes a call or makes the block unusable. Strict tags always count as
// structure; look-alikes without the token count only where a strict one is missing (MAL-4), so a value may
// contain any text. A body that is not empty and cannot be read as parameters is never an empty call.
//
// Invariants
//  (1) calls() only grows, and each call came from an invoke that was closed.
//  (2) accepted_end() is where the last invoke that gave a call ended; 0 before the first.
//  (3) once unusable, no further call is added; text is still collected until the block closes.
// No threading of its own. Source: protocol.md 3.2 and 3.3.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/byte_range.h"
#include "text/dsml_tag.h"
#include "text/json_value.h"

namespace kvasir {

struct ParsedCall {
  std::string name;
  std::string arguments;  // a JSON object
};

class DsmlBlock {
 public:
  // `tools` are the offered function objects; they outlive the block.
  explicit DsmlBlock(const std::vector<JsonValue>& tools) : tools_(&tools) {}

  // Ordinary text. Returns how much of it belongs to the block: less than all once it has closed.
  size_t push_plain(std::string_view text);
  void push_dsml();                          // the special token ｜DSML｜
  void push_special(std::string_view text);  // any other special token: literal text of a value
  void fail(std::string reason);             // declares the block unusable

  enum class End {
    kComplete,    // every invoke is closed
    kIncomplete,  // the text ends inside an invoke or before the first
  };
  // Generation has ended before the closing tag: reads what is left. See rest_begin() and unusable().
  End finish();
  // Forgets everything after accepted_end(): the text will be sampled again from there.
  void cut_back();

  bool closed() const { return closed_; }
  bool unusable() const { return !reason_.empty(); }
  const std::string& reason() const { return reason_; }
  const std::vector<ParsedCall>& calls() const { return calls_; }
  size_t accepted_end() const { return accepted_end_; }

  // Text after the structure, known after finish(): not part of the block.
  size_t rest_begin() const { return rest_begin_; }
  size_t size() const { return text_.size(); }
  // The text from `begin` on without its special tokens, as if it had been no block; `dropped` grows by
  // the bytes left out.
  std::string visible_text(size_t begin, size_t& dropped) const;

 private:
  enum class Read { kOk, kEnd, kBroken };  // kEnd: the text ended first

  DsmlText view() const { return {text_, marks_}; }
  void read_new_tags();
  void on_closing_tag(const DsmlTag& tag);
  Read read_invokes(size_t limit);
  Read read_header(size_t& at, size_t limit);
  Read read_between(size_t& at, size_t limit, const DsmlTag& tag, TagRead what);
  Read read_invoke(const DsmlTag& open, size_t& at, size_t limit);
  Read read_value(const DsmlTag& open, size_t& at, size_t limit, std::string_view& value);
  bool read_loosely_closed_value(size_t& at, size_t limit, std::string_view& value) const;
  size_t skip_blanks(size_t at, size_t limit) const;
  bool is_blank(size_t begin, size_t end) const { return skip_blanks(begin, end) == end; }
  Read broken(std::string reason);

  const std::vector<JsonValue>* tools_;
  std::string text_;
  std::vector<size_t> marks_;        // where ｜DSML｜ stands, ascending
  std::vector<ByteRange> specials_;  // every special token, ｜DSML｜ included, ascending
  size_t next_mark_ = 0;             // marks before it have been looked at for closing tags
  std::vector<ParsedCall> calls_;
  size_t accepted_end_ = 0;
  size_t read_from_ = 0;  // everything before it has been read; at least accepted_end_ between calls
  size_t rest_begin_ = 0;
  bool closed_ = false;
  std::string reason_;
};

}  // namespace kvasir
