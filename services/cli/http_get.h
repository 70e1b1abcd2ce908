// One GET over a plain connection to a process of this cluster.
#pragma once

#include <chrono>
#include <string>

#include "absl/status/statusor.h"

namespace conclave::cli {

struct HttpAnswer {
  int status = 0;
  std::string body;
};

// `address`: numeric host:port. UNAVAILABLE when nobody answers within the timeout.
absl::StatusOr<HttpAnswer> HttpGet(const std::string& address, const std::string& path,
                                   std::chrono::milliseconds timeout);

}  // namespace conclave::cli
