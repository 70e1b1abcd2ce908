// One call to an HTTP server, on a connection of its own: blocks the calling thread until the
// answer or the timeout. With TLS (1.2 or later) the server's certificate has to name the host, and
// to be signed by the authorities given.
//
// Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace conclave::http {

struct HttpCall {
  std::string host;  // name or number
  std::string port;
  bool tls = true;
  std::string authorities_pem = {};  // empty: those of this system
  std::string method = "GET";
  std::string path = "/";
  std::vector<std::pair<std::string, std::string>> headers = {};
  std::string body = {};
  std::chrono::milliseconds timeout{2000};
};

struct HttpCallAnswer {
  int status = 0;
  std::string body;
  int64_t certificate_expires_unix_s = 0;  // the server's own; 0 without TLS
};

// Any status that the server answers with is an answer. UNAVAILABLE when there is none in time,
// FAILED_PRECONDITION when TLS fails (no trust, or the server speaks none), INVALID_ARGUMENT when
// the authorities are no certificates. Messages begin with the address.
absl::StatusOr<HttpCallAnswer> CallHttp(const HttpCall& call);

}  // namespace conclave::http
