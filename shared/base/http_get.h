// One GET over a plain connection to a process of this cluster: `conclave up` waiting for
// readiness, and the health check of the services. Blocks the calling thread.
#pragma once

#include <chrono>
#include <string>

#include "absl/status/statusor.h"

namespace conclave {

struct HttpAnswer {
  int status = 0;
  std::string body;
};

// `address`: numeric host:port. UNAVAILABLE when nobody answers within the timeout.
absl::StatusOr<HttpAnswer> HttpGet(const std::string& address, const std::string& path,
                                   std::chrono::milliseconds timeout);

}  // namespace conclave
