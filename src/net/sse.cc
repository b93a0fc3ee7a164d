// Lines of events.
#include "net/sse.h"

namespace kvasir {
namespace {

// Appends `prefix` and each line of `text`, which has at least one, though it may be empty.
void append_lines(std::string& out, std::string_view prefix, std::string_view text) {
  for (;;) {
    const size_t end = text.find_first_of("\r\n");
    out.append(prefix).append(text.substr(0, end)).push_back('\n');
    if (end == std::string_view::npos) return;
    const bool crlf = text.substr(end, 2) == "\r\n";
    text.remove_prefix(end + (crlf ? 2 : 1));
  }
}

}  // namespace

std::string sse_event(std::string_view name, std::string_view data) {
  std::string out;
  out.reserve(name.size() + data.size() + 24);
  if (!name.empty()) out.append("event: ").append(name.substr(0, name.find_first_of("\r\n"))).push_back('\n');
  append_lines(out, "data: ", data);
  out.push_back('\n');
  return out;
}

std::string sse_comment(std::string_view text) {
  std::string out;
  append_lines(out, ": ", text);
  out.push_back('\n');
  return out;
}

Task<bool> SseWriter::begin(const std::vector<HttpHeader>& headers) {
  std::vector<HttpHeader> all = {{"Content-Type", "text/event-stream; charset=utf-8"},
                                 {"Cache-Control", "no-cache"},
                                 {"X-Accel-Buffering", "no"}};
  all.insert(all.end(), headers.begin(), headers.end());
  co_return co_await out_.begin(200, all);
}

Task<bool> SseWriter::event(std::string_view name, std::string_view data) {
  const std::string bytes = sse_event(name, data);
  co_return co_await out_.write(bytes);
}

Task<bool> SseWriter::comment(std::string_view text) {
  const std::string bytes = sse_comment(text);
  co_return co_await out_.write(bytes);
}

}  // namespace kvasir
