// An engine: checkpoint, weights, KV cache, step loop, gRPC server, ops port and membership, wired
// together.
//
// Made and ended on the main thread. Loading runs on a thread of its own ("load"), so that the
// ports answer and the controller sees the progress meanwhile. Everything it needs from the outside
// comes in the options.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/options/options.h"

namespace conclave::engine {

class Engine {
 public:
  // Opens the checkpoint, opens the ports, joins the cluster and starts to load. Errors say what to
  // change.
  static absl::StatusOr<std::unique_ptr<Engine>> Start(const CommonOptions& common,
                                                       const EngineOptions& options);
  ~Engine();  // Drain without grace; waits for the end of loading

  const std::string& address() const;  // of the gRPC port, as others reach it
  std::string ops_address() const;
  const std::string& fingerprint() const;
  const std::string& system_fingerprint() const;  // "tales-bf16-cpu1-8d21"

  // Loaded, warmed up and not draining.
  bool ready() const;
  // Loading has not ended yet: the process may only be ended at once, because nothing can stop it
  // half way.
  bool loading() const;
  // Why this engine cannot go on: loading failed, or the controller refused it for good. OK
  // otherwise.
  absl::Status Failure() const;

  // Takes no new sequences, waits for the running ones until the grace is over, fails the rest with
  // UNAVAILABLE, leaves the cluster and ends all streams. Idempotent.
  void Drain(std::chrono::milliseconds grace);
  // Leaves the cluster, nothing more: for the end of a process that is loading.
  void Leave();

 private:
  struct State;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace conclave::engine
