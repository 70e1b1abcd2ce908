// An EngineService on a real port that plays given ids instead of computing them: the engine's side
// of the protocol, for tests of gateways.
//
// Thread-safe. Each stream is served by one thread; events of a sequence are written as soon as the
// script allows.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "conclave/v1/engine.grpc.pb.h"
#include "shared/base/bounded_queue.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"

namespace conclave::testing_support {

// What a sequence does: the ids it yields, then how it ends.
struct Script {
  std::vector<int32_t> ids = {};
  bool leave = false;                     // after the ids: the engine says that it leaves
  bool hang_after = false;                // after the ids: nothing more until cancelled
  std::optional<int32_t> stop_id = {};    // ends with this stop id; else with FINISH_REASON_LENGTH
  std::optional<int32_t> fail_code = {};  // ends with this failure instead
  std::string fail_message = "";
  size_t ids_per_event = 1;
};

class ScriptedEngine final : public v1::EngineService::Service {
 public:
  // `script`: called for each sequence; thread-safe.
  ScriptedEngine(v1::EngineHello hello, std::function<Script(const v1::StartSequence&)> script);
  ~ScriptedEngine() override;

  const std::string& address() const { return address_; }
  // What arrived, in order; nullopt after ten seconds without any.
  std::optional<v1::StartSequence> NextStart() { return starts_.PopFor(std::chrono::seconds(10)); }
  // The same without a wait.
  std::optional<v1::StartSequence> StartedNow() { return starts_.PopFor(Duration(0)); }
  std::optional<uint64_t> CancelledNow() { return cancels_.PopFor(Duration(0)); }
  std::optional<uint64_t> NextCancel() { return cancels_.PopFor(std::chrono::seconds(10)); }
  // What it says to reach after its hello, on streams that are opened from now on.
  void SetReach(v1::EngineReach reach) EXCLUDES(mutex_);
  // Streams whose gateway has closed its side.
  int num_closed() const { return num_closed_; }
  // Breaks every stream, as a dying engine does. New ones are accepted.
  void BreakStreams();

  grpc::Status Connect(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::EngineEvents, v1::EngineCommand>* stream) override;

 private:
  const v1::EngineHello hello_;
  const std::function<Script(const v1::StartSequence&)> script_;
  BoundedQueue<v1::StartSequence> starts_{1024};
  BoundedQueue<uint64_t> cancels_{1024};
  std::atomic<int> num_closed_{0};
  Mutex mutex_;
  std::vector<grpc::ServerContext*> contexts_ GUARDED_BY(mutex_);
  v1::EngineReach reach_ GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace conclave::testing_support
