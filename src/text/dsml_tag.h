// Reads one tag of a tool block: <｜DSML｜invoke name="f">, </｜DSML｜parameter>, ...
//
// A tag is strict when its ｜DSML｜ is the special token. Its look-alikes, with the marker as ordinary text,
// with ASCII bars or without a marker, are read too (MAL-4), but whoever asks decides whether they count.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "text/tool_arguments.h"

namespace kvasir {

struct DsmlTag {
  enum class Name { kToolCalls, kInvoke, kParameter };

  Name name = Name::kToolCalls;
  bool closing = false;
  bool strict = false;
  size_t begin = 0;             // of its '<'
  size_t end = 0;               // after its '>'
  std::string_view value = {};  // of the attribute `name`: what is invoked, or the parameter's key
  Parameter::IsString is_string = Parameter::IsString::kUnsaid;

  bool opens(Name n) const { return !closing && name == n; }
  bool closes(Name n) const { return closing && name == n; }
};

enum class TagRead {
  kTag,
  kNone,     // something else begins here
  kPartial,  // the text ends inside what may become a tag
  kBad,      // a tag whose attributes cannot be read (MAL-14 among them)
};

// Text of a block and where in it the special token ｜DSML｜ stands, ascending. Borrowed.
struct DsmlText {
  std::string_view text;
  const std::vector<size_t>& marks;

  bool is_mark(size_t at) const;
};

// Reads the tag at `at`, looking no further than `limit`.
TagRead read_dsml_tag(const DsmlText& block, size_t at, size_t limit, DsmlTag& tag);

}  // namespace kvasir
