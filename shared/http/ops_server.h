// The HTTP port that every process has beside those it works on: /livez, /readyz, /metrics. Never
// encrypted, and no business of clients.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "shared/metrics/registry.h"

namespace conclave::http {

// The answer of /readyz: 200 "ready", or 503 with a JSON body {"ready":false,"missing":[...]} that
// says what is missing.
struct Readiness {
  bool ready = false;
  std::vector<std::string>
      missing;  // "no engine has stepped in the last 5 s", "layer 1 expert 3 has no live worker"
  std::vector<std::string> notes = {};  // what is worth knowing and hinders nothing; shown if any
};

class OpsServer {
 public:
  struct Options {
    std::string listen;                     // host:port; port 0: any
    std::function<Readiness()> readiness;   // called on a server thread; thread-safe and quick
    metrics::Registry* registry = nullptr;  // outlives the server
  };
  // Errors as of Server::Start.
  static absl::StatusOr<std::unique_ptr<OpsServer>> Start(Options options);
  ~OpsServer();  // stops and joins

  std::string address() const;  // host:port really bound

 private:
  struct State;
  explicit OpsServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace conclave::http
