// A server that answers InferenceService and the HTTP API with fixed bytes, through the same
// shared/h2 and shared/http as a gateway: what it costs is the libraries' and the system's part.
// Beside them, as their peer, it answers by gRPC's own server.
//
// A process of its own, started by `conclave bench gateway`.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/bench_cluster/child.h"
#include "shared/base/signals.h"

namespace conclave::cli {

// As a gateway answered before.
struct EchoAnswers {
  std::string complete;              // v1::CompleteResponse
  std::vector<std::string> session;  // v1::SessionEvent, the messages of one request's answer
  std::string http_body;             // of POST /v1/chat/completions without "stream"
  std::string sse_body;              // of one with it
};

class Echo {
 public:
  // Starts the process and waits until it listens. `folder` exists and outlives this.
  static absl::StatusOr<std::unique_ptr<Echo>> Start(const EchoAnswers& answers,
                                                     const std::string& folder);
  const std::string& grpc_address() const { return grpc_address_; }
  const std::string& http_address() const { return http_address_; }
  const std::string& peer_address() const { return peer_address_; }  // gRPC's own server
  int64_t pid() const { return child_->pid(); }

 private:
  std::unique_ptr<Child> child_;
  std::string grpc_address_, http_address_, peer_address_;
};

// The process' part: serves what the file at `answers` says until a stop signal, and writes its
// addresses into a file beside it.
absl::Status ServeEcho(const std::string& answers, StopSignals& signals);

}  // namespace conclave::cli
