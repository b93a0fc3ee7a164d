// SseWriter: a stream of server-sent events as the body of a response.
//
// Source: WHATWG HTML, section "Server-sent events". Threading: that of its ResponseWriter, which outlives
// it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "net/response_writer.h"
#include "net/task.h"

namespace kvasir {

// One event as bytes: `event:` if there is a name, a `data:` line for each line of `data`, an empty line.
// Lines may end by CR, LF or CR LF, as a reader would see them. A name must be one line: whatever follows a
// line end is dropped.
std::string sse_event(std::string_view name, std::string_view data);

// A comment, which readers skip; keeps idle connections alive.
std::string sse_comment(std::string_view text);

class SseWriter {
 public:
  explicit SseWriter(ResponseWriter& out) : out_(out) {}

  // Sends the head: 200, text/event-stream, not to be cached or buffered on the way.
  Task<bool> begin(const std::vector<HttpHeader>& headers = {});

  // All of these: false once the client has gone.
  Task<bool> event(std::string_view data) { return event({}, data); }
  Task<bool> event(std::string_view name, std::string_view data);
  Task<bool> comment(std::string_view text);
  Task<bool> finish() { return out_.finish(); }

  bool connected() const { return out_.connected(); }

 private:
  ResponseWriter& out_;
};

}  // namespace kvasir
