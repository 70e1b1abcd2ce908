// host:port, as settings and members write it.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace conclave {

struct Address {
  std::string host;  // a name or a number; IPv6 without brackets
  int port = 0;      // 0: any free one, where something listens

  std::string ToString() const;  // "127.0.0.1:8000", "[::1]:8000"
};

// Reads host:port or [ipv6]:port. INVALID_ARGUMENT says what was found and wanted.
absl::StatusOr<Address> ParseAddress(std::string_view text);

// True for 127.0.0.0/8, ::1 and localhost: reachable from this machine alone.
bool IsLoopback(std::string_view host);

// Whether a TCP socket can listen on this numeric address or localhost now. Another process may
// take the port later.
bool PortIsFree(const Address& address);

// The first free port at or above `address.port`; RESOURCE_EXHAUSTED when none of the next 200 is.
absl::StatusOr<int> NearestFreePort(Address address);

}  // namespace conclave
