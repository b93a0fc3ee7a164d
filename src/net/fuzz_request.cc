// libFuzzer: bytes of any kind as a connection's input. What our checks accept, Beast reads as the same
// request, whole or cut anywhere; the body is never larger than its limit, and its memory never more than
// what arrived calls for.
#include <cstdlib>

#include "net/host_rule.h"
#include "net/request_head.h"
#include "net/request_parser.h"
#include "net/sse.h"

namespace {

using namespace kvasir;

constexpr uint64_t kMaxBody = 1000;

void require(bool condition) {
  if (!condition) std::abort();
}

void require_refusal(const HttpError& error) {
  require(error.status >= 400 && error.status < 600 && !error.message.empty());
  for (char c : error.message) require(c != '\r' && c != '\n' && c != '\0');
}

struct Outcome {
  bool done = false;
  bool refused = false;
  size_t taken = 0;
  std::string body;
};

Outcome read_body(std::string_view head, std::string_view bytes, size_t step, const RequestHead& facts) {
  BodyBudget budget(1 << 20);
  HttpRequest request;
  Outcome outcome;
  RequestParser parser(budget, kMaxBody);
  if (auto error = parser.put_head(head, request)) {
    require_refusal(*error);
    outcome.refused = true;
    return outcome;
  }
  require(request.headers.size() == facts.header_count);
  if (facts.host) require(*request.header("host") == *facts.host);
  require(budget.used() == 0);
  if (!facts.chunked && facts.content_length.value_or(0) == 0) require(parser.done());
  std::string input;
  for (size_t at = 0; at < bytes.size() && !parser.done() && !outcome.refused; at += step) {
    input += bytes.substr(at, step);
    size_t taken = 0;
    if (auto error = parser.put_body(input, taken)) {
      require_refusal(*error);
      outcome.refused = true;
      break;
    }
    input.erase(0, taken);
    outcome.taken += taken;
    require(budget.used() <= 4096 + 2 * static_cast<int64_t>(at + step));
  }
  outcome.done = parser.done();
  outcome.body = parser.take_body();
  require(outcome.body.size() <= kMaxBody);
  if (outcome.done && facts.content_length) require(outcome.body.size() == *facts.content_length);
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const size_t step = 1 + data[0] % 40;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);

  HeadLimits limits;
  limits.target_bytes = 200;
  limits.header_bytes = 2000;
  limits.header_count = 20;
  HeadScanner whole(limits), cut(limits);
  const auto error = whole.scan(bytes);
  std::optional<HttpError> cut_error;
  for (size_t at = step; !cut_error && cut.head_bytes() == 0; at += step) {
    cut_error = cut.scan(bytes.substr(0, at));
    if (at >= bytes.size()) break;
  }
  require(error.has_value() == cut_error.has_value() && whole.head_bytes() == cut.head_bytes());
  if (error) require_refusal(*error);
  if (error || whole.head_bytes() == 0) return 0;

  const std::string_view head = bytes.substr(0, whole.head_bytes());
  RequestHead facts;
  if (auto refusal = read_request_head(head, limits, facts)) {
    require_refusal(*refusal);
    return 0;
  }
  require(!(facts.chunked && facts.content_length));
  require(facts.host || facts.minor_version == 0);
  if (facts.host) {
    require(split_authority(*facts.host).has_value());
    HostRule("127.0.0.1", {"example.org"}).allows(*facts.host, "10.0.0.1");
  }
  if (facts.content_length.value_or(0) > kMaxBody) return 0;
  const std::string_view rest = bytes.substr(head.size());
  const Outcome at_once = read_body(head, rest, std::max<size_t>(rest.size(), 1), facts);
  const Outcome in_steps = read_body(head, rest, step, facts);
  require(at_once.done == in_steps.done);
  if (at_once.done) require(at_once.body == in_steps.body && at_once.taken == in_steps.taken);
  for (char c : sse_event(facts.path, rest)) require(c != '\r');
  return 0;
}
