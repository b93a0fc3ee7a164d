// Names are compared as text, addresses as bytes.
#include "net/host_rule.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "net/http_message.h"

namespace kvasir {
namespace {

struct Address {
  unsigned char bytes[16] = {};
  int size = 0;

  bool operator==(const Address& other) const {
    return size == other.size && std::memcmp(bytes, other.bytes, 16) == 0;
  }
};

std::optional<Address> parse_address(const std::string& text) {
  Address address;
  if (inet_pton(AF_INET, text.c_str(), address.bytes) == 1) {
    address.size = 4;
    return address;
  }
  if (inet_pton(AF_INET6, text.c_str(), address.bytes) != 1) return std::nullopt;
  static constexpr unsigned char kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (std::memcmp(address.bytes, kMapped, 12) == 0) {  // ::ffff:a.b.c.d is a.b.c.d
    std::memmove(address.bytes, address.bytes + 12, 4);
    std::memset(address.bytes + 4, 0, 12);
    address.size = 4;
  } else {
    address.size = 16;
  }
  return address;
}

bool is_loopback(const Address& address) {
  if (address.size == 4) return address.bytes[0] == 127;
  static constexpr unsigned char kOne[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  return std::memcmp(address.bytes, kOne, 16) == 0;
}

bool is_name_char(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '.' ||
         c == '_';
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), ascii_lower);
  return out;
}

}  // namespace

std::optional<Authority> split_authority(std::string_view text) {
  Authority authority;
  std::string_view port;
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    if (close == std::string_view::npos) return std::nullopt;
    authority.host = lower(text.substr(1, close - 1));
    in6_addr ignored;
    if (inet_pton(AF_INET6, authority.host.c_str(), &ignored) != 1) return std::nullopt;
    port = text.substr(close + 1);
  } else {
    const size_t colon = std::min(text.find(':'), text.size());
    const std::string_view host = text.substr(0, colon);
    if (host.empty() || host == "." || !std::all_of(host.begin(), host.end(), is_name_char))
      return std::nullopt;
    authority.host = lower(host);
    if (authority.host.back() == '.') authority.host.pop_back();
    port = text.substr(colon);
  }
  if (!port.empty()) {
    if (port.front() != ':') return std::nullopt;
    port.remove_prefix(1);  // "host:" with no digits is allowed by RFC 3986
    if (port.size() > 5 || port.find_first_not_of("0123456789") != std::string_view::npos)
      return std::nullopt;
    authority.port = std::string(port);
  }
  return authority;
}

HostRule::HostRule(std::string_view bound_host, const std::vector<std::string>& names) {
  names_.push_back("localhost");
  for (const std::string& name : names) names_.push_back(lower(name));
  const std::string bound = lower(bound_host);
  if (auto address = parse_address(bound)) {
    any_address_ = std::all_of(address->bytes, address->bytes + 16, [](unsigned char b) { return b == 0; });
  } else {
    names_.push_back(bound);
  }
}

bool HostRule::allows(std::string_view host, std::string_view local_address) const {
  const auto authority = split_authority(host);
  if (!authority) return false;
  if (std::find(names_.begin(), names_.end(), authority->host) != names_.end()) return true;
  const auto address = parse_address(authority->host);
  if (!address) return false;
  if (any_address_ || is_loopback(*address)) return true;
  return parse_address(std::string(local_address)) == address;
}

}  // namespace kvasir
