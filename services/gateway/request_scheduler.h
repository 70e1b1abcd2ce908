// The requests of a gateway, from their submission to their end: which wait, which run on which
// engine, and what each event means for whom.
//
// Pure but for its sinks and links; owned by the core thread (frontend.h), which tells it what
// happens. A request waits here, in the fair queue, until an engine has room for it: an engine's
// own queue knows classes and deadlines, but no tenants.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "services/gateway/admission.h"
#include "services/gateway/cache/response_cache.h"
#include "services/gateway/engine_set.h"
#include "services/gateway/generation.h"
#include "services/gateway/generation_sink.h"
#include "services/gateway/qos/fair_queue.h"
#include "services/gateway/qos/running_places.h"
#include "services/gateway/qos/wait_estimate.h"
#include "services/gateway/request_metrics.h"
#include "services/gateway/request_record.h"
#include "services/gateway/resume_token.h"
#include "services/gateway/running_request.h"
#include "services/gateway/shared_answer.h"
#include "services/gateway/text_model.h"
#include "shared/base/clock.h"
#include "shared/metrics/registry.h"

namespace conclave::gateway {

struct RequestSchedulerOptions {
  int32_t max_running = 256;   // requests on engines at once
  int32_t max_waiting = 1024;  // requests in the queue; a further one is refused, or pushes out one
                               // of a lower class, or of a tenant that has more waiting
  // Of max_running and of each engine's room, what may be full for another request of a class to
  // start: the rest is for the classes above, so that an urgent request does not wait for a place.
  // When requests of a class above wait, they have no use for it: then theirs holds for all.
  PerClass<double> class_shares = {1, 0.95, 0.85, 0.7};
  FairQueueOptions queue = {};
  Duration first_token_timeout = std::chrono::seconds(600);
  // How long an ended request waits for the engine's account of a choice that a stop string ended.
  Duration usage_wait = std::chrono::seconds(1);
  // How long requests wait in the queue while no engine is connected.
  Duration engine_wait = std::chrono::seconds(2);
};

class RequestScheduler {
 public:
  // All but the options outlive this. `cache` may be null.
  RequestScheduler(RequestSchedulerOptions options, EngineSet* engines, const TextModel* model,
                   const ResumeTokenSigner* signer, ResponseCache* cache,
                   metrics::Registry* registry, const Clock* clock);
  // What is left gets UNAVAILABLE.
  ~RequestScheduler();

  // `key`: the caller's, unique. Everything that goes wrong goes to the sink: ALREADY_EXISTS for
  // the id of a request of the same tenant that is not over, UNAVAILABLE without an engine,
  // RESOURCE_EXHAUSTED with a retry delay when the queue is full or the deadline cannot be met.
  void Submit(uint64_t key, Generation generation, Admission admission,
              std::shared_ptr<GenerationSink> sink);
  // Nobody wants the answer any more: forgets the request without another word to its sink.
  void Abandon(uint64_t key);
  // Ends a request's choices with reason kCancelled. NOT_FOUND: the tenant has no such request.
  absl::Status Cancel(const std::string& tenant, const std::string& request_id);

  void OnEvent(const SequenceEvent& event);
  // An engine is gone.
  void FailAllOn(const std::string& engine, const absl::Status& status);
  // The end: nothing is started any more.
  void FailAll(const absl::Status& status);
  // Starts what may start now: to be called when an engine has come, or has more room.
  void Dispatch();
  // About ten times a second: deadlines, and what nothing else would wake.
  void Tick();

  int64_t num_waiting() const { return queue_.size(); }
  int32_t num_running() const { return running_.taken(); }

 private:
  // What is computed, once, for all who asked for it. Its key is that of its first request.
  struct Run {
    std::unique_ptr<RunningRequest> request;
    std::shared_ptr<SharedAnswer> answer;
    std::vector<uint64_t> prefix_hashes;  // of the prompt
    std::vector<uint64_t> listeners;      // keys of their requests
    std::string engine;                   // empty: it waits
    uint64_t first_sequence = 0;          // choice i runs as sequence first_sequence + i
    std::optional<WaitingRequest> place;  // what the queue was told it would cost, once it runs
    int64_t kv_tokens = 0;                // counted in its engine's own_tokens
    TimePoint started;                    // on its engine
  };
  // A client's request.
  struct Listener {
    uint64_t run = 0;
    RequestRecord record;
    std::optional<TimePoint> deadline;
    Admission admission;
  };

  // A run that a request may share; nullopt: none.
  std::optional<uint64_t> RunToJoin(const Generation& generation) const;
  // Who begins to listen to a run.
  struct Newcomer {
    const std::string& system_fingerprint;  // of the engines
    CacheStatus cache = CacheStatus::kNone;
    Admission admission;
    std::shared_ptr<GenerationSink> sink;
  };
  void Attach(uint64_t key, uint64_t run_key, const Generation& generation, Newcomer newcomer);
  // OK, or why the queue is no place for the run that was just put into it.
  absl::Status MayWait(uint64_t key, const Generation& generation);
  // Whether a run's time would be over before its answer is whole, while others wait.
  bool CannotFinish(const Run& run, TimePoint now) const;
  void Start(uint64_t key, Run& run, EngineSet::Engine& engine);
  void Apply(uint64_t run_key, const RunningRequest::Actions& actions, const absl::Status& status);
  // Ends a run, and the requests that still listen to it.
  void EndRun(uint64_t run_key, const absl::Status& status);
  void LeaveEngine(const Run& run);
  // Puts a run that its engine refused back into the queue, where it keeps its arrival, and gives
  // that engine no more. False: it has begun, and cannot begin again.
  bool PutBack(uint64_t key, Run& run);
  // Ends one request of a run, whose answer forgets it; the run as well if it was the last.
  void EndListener(uint64_t key, const absl::Status& status);
  // Fails one request, or the run if nobody else listens.
  void FailListener(uint64_t key, const absl::Status& status);
  // Requests that have waited too long for any engine.
  void FailWithoutEngine(TimePoint now);
  void TakeListener(uint64_t key, const Run& run, const absl::Status& status);
  // What Dispatch answers the queue, and the engine that it found. An overdue request has an engine
  // set aside for it, in the same search, that requests of its class and those below leave alone.
  struct Search {
    QosClass room_of = QosClass::kRealtime;  // whose share of the room may be full
    EngineSet::Engine* engine = nullptr;
    EngineSet::Engine* set_aside = nullptr;
    QosClass set_aside_for = QosClass::kRealtime;
  };
  MayStart LookForEngine(const WaitingRequest& waiting, Search* search);
  // Whether the request's tenant may have another one run.
  bool TenantMayRun(const WaitingRequest& waiting) const;
  EngineSet::Demand DemandOf(const Run& run, QosClass qos) const;
  int64_t ExpectedAnswer(const Generation& generation) const;
  // Tokens that it is expected to take: the prompt once, and all choices' answers.
  double CostOf(const Generation& generation) const {
    return static_cast<double>(static_cast<int64_t>(generation.prompt_ids.size()) +
                               ExpectedAnswer(generation));
  }

  const RequestSchedulerOptions options_;
  EngineSet& engines_;
  const TextModel& model_;
  const ResumeTokenSigner& signer_;
  ResponseCache* const cache_;
  metrics::Registry& registry_;
  RequestMetrics metrics_;
  const Clock& clock_;

  FairQueue queue_;
  WaitEstimate estimate_;
  std::unordered_map<uint64_t, Run> runs_;
  std::unordered_map<uint64_t, Listener> listeners_;
  std::map<std::pair<std::string, std::string>, uint64_t> listeners_by_id_;  // by tenant and id
  std::map<CacheKey, uint64_t> runs_by_cache_key_;
  std::unordered_map<uint64_t, uint64_t> runs_by_sequence_;
  RunningPlaces running_;
  uint64_t next_sequence_ = 1;
  std::optional<TimePoint> without_engine_since_;
  bool stopped_ = false;  // nothing is started any more
};

}  // namespace conclave::gateway
