#include "grammar/format.h"

#include <fmt/core.h>

#include <string>
#include <utility>

namespace kvasir {
namespace {

std::string ipv6_pattern(const std::string& ipv4) {
  // RFC 4291: eight groups, the last two perhaps as IPv4, one run of zero groups as "::".
  const std::string h = "[0-9A-Fa-f]{1,4}";
  const std::string tail = fmt::format("({0}:{0}|{1})", h, ipv4);
  std::string all = fmt::format("({}:){{6}}{}", h, tail);
  for (int before = 0; before <= 7; ++before) {  // groups before "::"
    const std::string left = before == 0 ? "" : fmt::format("({0}:){{{1}}}{0}", h, before - 1);
    const int after = 7 - before;  // groups after it, at most
    std::string right;
    for (int n = 0; n <= after; ++n) {
      if (n > 0) right += "|";
      if (n == 1) right += h;
      if (n >= 2) right += fmt::format("({}:){{{}}}{}", h, n - 2, tail);
    }
    all += fmt::format("|{}::({})", left, right);
  }
  return fmt::format("^({})$", all);
}

std::string date_pattern() {
  const std::string leap = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)";
  return fmt::format(
      "([0-9]{{4}}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|"
      "02-(0[1-9]|1[0-9]|2[0-8]))|{}-02-29)",
      leap);
}

constexpr std::string_view kTime =
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
constexpr std::string_view kHost = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
constexpr std::string_view kIpv4 =
    "((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";

// RFC 3986 with a scheme. An address in brackets is any text of its characters.
std::string uri_pattern() {
  const std::string plain = "A-Za-z0-9._~!$&'()*+,;=";
  const std::string percent = "%[0-9A-Fa-f]{2}";
  const std::string segment = fmt::format("([{}:@-]|{})", plain, percent);
  const std::string authority =
      fmt::format("(([{0}:-]|{1})*@)?(\\[[0-9A-Fa-f:.]+\\]|([{0}-]|{1})*)(:[0-9]*)?", plain, percent);
  const std::string path = fmt::format("(//{1}(/{0}*)*|/({0}+(/{0}*)*)?|{0}+(/{0}*)*|)", segment, authority);
  const std::string rest = fmt::format("([{}:@/?-]|{})*", plain, percent);
  return fmt::format("^[A-Za-z][A-Za-z0-9+.-]*:{0}(\\?{1})?(#{1})?$", path, rest);
}

struct Patterns {
  std::string hostname = fmt::format("^{0}(\\.{0})*$", kHost);
  std::string email = fmt::format(
      "^[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~-]+(\\.[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~-]+)*@{0}(\\.{0})*$", kHost);
  std::string ipv4 = fmt::format("^{}$", kIpv4);
  std::string ipv6 = ipv6_pattern(std::string(kIpv4));
  std::string uuid = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$";
  std::string date = fmt::format("^{}$", date_pattern());
  std::string time = fmt::format("^{}$", kTime);
  std::string date_time = fmt::format("^{}[Tt]{}$", date_pattern(), kTime);
  std::string uri = uri_pattern();
};

}  // namespace

std::string_view format_pattern(std::string_view format) {
  static const Patterns patterns;
  const std::pair<std::string_view, std::string_view> known[] = {
      {"email", patterns.email},         {"hostname", patterns.hostname}, {"ipv4", patterns.ipv4},
      {"ipv6", patterns.ipv6},           {"uuid", patterns.uuid},         {"date", patterns.date},
      {"date-time", patterns.date_time}, {"time", patterns.time},         {"uri", patterns.uri}};
  for (const auto& [name, pattern] : known) {
    if (name == format) return pattern;
  }
  return {};
}

std::optional<NumberBounds> format_bounds(std::string_view format) {
  if (format == "float" || format == "double") return NumberBounds{};
  const bool is32 = format == "int32";
  if (!is32 && format != "int64") return std::nullopt;
  NumberBounds bounds{.integer = true};
  bounds.max = *Decimal::parse(is32 ? "2147483647" : "9223372036854775807");
  bounds.min = *Decimal::parse(is32 ? "-2147483648" : "-9223372036854775808");
  return bounds;
}

}  // namespace kvasir
