// An expert worker: checkpoint, loaded experts, compute thread, gRPC server, ops port and
// membership, wired together.
//
// Made and ended on the main thread. Everything it needs from the outside comes in the options.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "shared/options/options.h"

namespace conclave::expert {

class Worker {
 public:
  // Opens the checkpoint, checks it and starts serving; experts are loaded when the topology names
  // some. Errors say what to change.
  static absl::StatusOr<std::unique_ptr<Worker>> Start(const CommonOptions& common,
                                                       const ExpertOptions& options);
  ~Worker();  // Drain without grace

  const std::string& address() const;  // of the gRPC port, as others reach it
  std::string ops_address() const;
  const std::string& fingerprint() const;
  // Why this worker cannot go on: the controller refused it for good. OK otherwise.
  absl::Status Failure() const;

  // Hands its experts over to other workers and serves on meanwhile (departure.h); leaves the
  // cluster, serves what still arrives until no frame has come for a moment, then ends all streams.
  // Takes at most the grace. Idempotent.
  void Drain(std::chrono::milliseconds grace);

 private:
  struct State;
  explicit Worker(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace conclave::expert
