// EngineService on gRPC: one reactor a gateway's stream, between protobuf and the step loop.
//
// Registered with the process' rpc::Server, which it outlives. Until Open the engine is loading and
// streams are refused. Reactors run on gRPC's threads and never block; Deliver runs on the step
// thread. A gateway that does not read is cut off when its unsent events pass a bound: it stalls
// nobody else.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "conclave/v1/engine.grpc.pb.h"
#include "services/engine/sequence.h"
#include "services/engine/sequence_event.h"
#include "services/engine/step_loop.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"
#include "shared/placement/topology.h"
#include "shared/rpc/cluster_id.h"
#include "shared/rpc/cluster_secret.h"

namespace conclave::engine {

// What a gateway is told first.
struct EngineIdentity {
  std::string fingerprint;
  std::string served_name;
  std::string numerics_class;
  std::string system_fingerprint;
  int32_t max_running = 0;  // sequences at once
  bool prefix_cache = false;
  int64_t kv_tokens = 0;  // that the KV cache holds
};

class EngineService final : public v1::EngineService::CallbackService, public EventSink {
 public:
  struct Options {
    rpc::ClusterSecret secret;  // what gateways must show
    // Gateways of another cluster are refused; null: none is.
    std::shared_ptr<const rpc::ClusterId> cluster = {};
    size_t max_unsent_events = 65536;  // of one stream
  };
  // All borrowed, and outlive the service.
  EngineService(const Options& options, EngineMetrics* metrics, const Clock* clock);
  ~EngineService() override;

  // Takes requests from now on. The loop outlives all streams (drain the server first).
  void Open(const EngineIdentity& identity, const SequenceLimits& limits, StepLoop* loop);

  grpc::ServerBidiReactor<v1::EngineCommand, v1::EngineEvents>* Connect(
      grpc::CallbackServerContext* context) override;

  // Tells all gateways, and those that come, which experts no live worker serves. Any thread.
  void SetMissing(placement::ExpertKeys missing) EXCLUDES(mutex_);

  // Tells all gateways that the engine leaves, and refuses those that come. Their streams go on
  // until they close them. Any thread.
  void Leave() EXCLUDES(mutex_);
  // Waits until every gateway has closed its stream, or the timeout passed: false.
  bool WaitUntilAlone(Duration timeout) EXCLUDES(mutex_);

  void Deliver(uint64_t stream, std::vector<SequenceEvent> events) override;
  void OnTurn() override EXCLUDES(mutex_);

 private:
  class GatewayStream;
  // What every stream reads, fixed at Open.
  struct Serving {
    EngineIdentity identity;
    SequenceLimits limits;
    StepLoop* loop = nullptr;
  };

  void Forget(uint64_t stream);
  std::vector<std::shared_ptr<GatewayStream>> Streams() const EXCLUDES(mutex_);
  void TellReach() EXCLUDES(mutex_);
  void WriteReach(v1::EngineReach* message) const EXCLUDES(mutex_);

  const Options options_;
  EngineMetrics& metrics_;
  const Clock& clock_;
  mutable Mutex mutex_;
  placement::ExpertKeys missing_ GUARDED_BY(mutex_);
  std::shared_ptr<const Serving> serving_ GUARDED_BY(mutex_);
  std::map<uint64_t, std::shared_ptr<GatewayStream>> streams_ GUARDED_BY(mutex_);
  uint64_t next_stream_ GUARDED_BY(mutex_) = kOwnStream + 1;
  bool leaving_ GUARDED_BY(mutex_) = false;
  CondVar alone_;  // the last stream has gone
};

}  // namespace conclave::engine
