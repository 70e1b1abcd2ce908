// Addresses that servers listen on: host:port or unix:/path.
//
// Functions; any thread.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/base/address.h"

namespace conclave::net {

struct ListenOptions {
  std::string name = {};     // what error messages call the server: "expert worker expert-0"
  std::string listen = {};   // host:port (port 0: any) or unix:/path
  std::string setting = {};  // what error messages tell to change: "--listen"
  bool paths = true;         // false: unix:/path is not taken
};

// host:port, or nothing for a Unix socket. INVALID_ARGUMENT when it is neither of what is taken.
absl::StatusOr<std::optional<Address>> ParseListen(const ListenOptions& options);

// UNAVAILABLE for an address that could not be bound: why (in use, not ours, not permitted), found
// by binding once more, and what to change. `address` as ParseListen gave it.
absl::Status CannotListen(const ListenOptions& options, const std::optional<Address>& address);

// A listening socket that does not block. Only this process can bind its port.
struct Listener {
  int descriptor = -1;  // the caller closes it
  std::string address;  // really bound, with the real port; unix:/path
  int port = 0;         // 0 for a Unix socket
  int family = 0;       // AF_INET, AF_INET6 or AF_UNIX
};
// Of a name's addresses the first that can be bound, IPv4 before IPv6: "localhost" is 127.0.0.1.
// Errors as of the two functions above. An old socket file at the path is replaced.
absl::StatusOr<Listener> Listen(const ListenOptions& options);

}  // namespace conclave::net
