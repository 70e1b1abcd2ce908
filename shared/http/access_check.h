// Who may talk to an HTTP port from a browser: foreign `Host` values are refused, because they are
// how DNS rebinding reaches a loopback service, and so is every foreign `Origin`. There is no CORS.
//
// Pure; called for every request before its body is read.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace conclave::http {

struct AccessPolicy {
  // Names besides loopback and the local address, lower case, no port; "*.example.org" stands for
  // all that have one label more.
  std::vector<std::string> allowed_hosts;
};

struct AccessQuery {
  std::optional<std::string_view> host;    // the Host header as sent; HTTP/1.0 may have none
  std::optional<std::string_view> origin;  // the Origin header as sent
  bool tls = false;  // the connection is encrypted: the server's own pages are https
  std::string_view
      local_address;  // address the client connected to, without port: "127.0.0.1", "::1"
};

// OK for: localhost and *.localhost, loopback addresses, the local address of the connection, the
// allowed names. INVALID_ARGUMENT: a Host that is none. PERMISSION_DENIED: a foreign host or
// origin, naming it.
absl::Status CheckAccess(const AccessQuery& query, const AccessPolicy& policy);

// "Example.org:80" -> "example.org", "[::1]:8000" -> "::1". nullopt if the text is not host[:port].
std::optional<std::string> HostWithoutPort(std::string_view text);

}  // namespace conclave::http
