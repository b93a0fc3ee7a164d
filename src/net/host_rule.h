// HostRule: which values of Host a request may carry, so that a web page cannot reach a loopback server by
// DNS rebinding (a name of the attacker's that resolves to 127.0.0.1 after the page is loaded).
//
// Allowed: loopback names and addresses, the address that the connection came in on, the host that the server
// was told to bind, and names from the configuration. A server bound to every interface also allows any
// numeric address: it may be reached through one that it does not have (port forwarding), and rebinding needs
// a name. The port is not compared, for the same reason. Pure. Constant after construction.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvasir {

struct Authority {
  std::string host;  // lower case, no brackets, no final dot
  std::string port;  // digits or empty
};

// host[:port] of a Host header or a target; nothing if it is not of that form.
std::optional<Authority> split_authority(std::string_view text);

class HostRule {
 public:
  HostRule(std::string_view bound_host, const std::vector<std::string>& names);

  // `host`: the header's value. `local_address`: numeric, of the accepted connection.
  bool allows(std::string_view host, std::string_view local_address) const;

 private:
  std::vector<std::string> names_;  // lower case
  bool any_address_ = false;
};

}  // namespace kvasir
