// The gateway's core: admits requests, gives each to an engine, follows it to its end, and answers
// what state the cluster is in.
//
// Transports (http_api.h, grpc_service.h) call it from their threads. One thread, "gateway-core",
// owns the running requests and the engines; everything reaches it through a bounded queue. Sinks
// are called on it, but for kept answers: those are replayed on the transport's thread, in Submit.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/gateway/admission.h"
#include "services/gateway/canonicalize.h"
#include "services/gateway/engine_link.h"
#include "services/gateway/engine_set.h"
#include "services/gateway/generation_sink.h"
#include "services/gateway/hit_metrics.h"
#include "services/gateway/identity/key_store.h"
#include "services/gateway/prompt_lanes.h"
#include "services/gateway/request_scheduler.h"
#include "services/gateway/resume_token.h"
#include "services/gateway/text_model.h"
#include "shared/base/bounded_queue.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"
#include "shared/http/ops_server.h"
#include "shared/metrics/registry.h"
#include "shared/placement/member.h"

namespace conclave::gateway {

class Frontend final : public EngineListener {
 public:
  struct Options {
    const KeyStore* keys = nullptr;  // outlives this; null: everybody may come
    RequestSchedulerOptions scheduler = {};
    ResponseCacheOptions cache = {};  // capacity 0: no cache
    Duration step_age_limit =
        std::chrono::seconds(5);  // an engine silent for longer does not make the gateway ready
    Duration fingerprint_hold =
        std::chrono::seconds(10);  // without an engine of the fingerprint served so far, before
                                   // another one is served under the same name
    std::string cluster_secret;    // signs resume tokens; empty: a key of this process
    EngineLinkFactory link_factory;
    metrics::Registry* registry = nullptr;  // outlives this
    const Clock* clock = nullptr;           // outlives this
  };
  Frontend(Options options, std::shared_ptr<const TextModel> model);
  // Ends what still runs with UNAVAILABLE.
  ~Frontend() override;

  // All of the following: any thread.

  // Who asks, by the value of the header Authorization. Errors as KeyStore::Authenticate.
  absl::StatusOr<std::shared_ptr<const Principal>> Authenticate(
      std::string_view authorization) const;
  // One of the principal's requests a minute, for what takes no place: RESOURCE_EXHAUSTED with a
  // retry delay when none is left.
  absl::Status TakeRequest(const Principal& principal) const;
  // RESOURCE_EXHAUSTED with a retry delay when as many requests run and wait as may, or when the
  // principal's limit is reached; UNAVAILABLE when draining. Taken before any work on a request.
  absl::StatusOr<Admission> Admit(const Principal& principal);
  // A request for the engines connected then. Its prompt is not encoded yet, and need not be when
  // its answer is kept.
  struct Checked {
    CheckedRequest request;
    EngineLimits limits;
    std::shared_ptr<RateLimit> limit;  // of its key; null: none
    const RecordedGeneration* kept_answer() const { return request.generation.answer.get(); }
  };
  // Quick. UNAVAILABLE with a retry delay when there is no engine, PERMISSION_DENIED for what the
  // principal may not use.
  absl::StatusOr<Checked> Check(const Principal& principal, GenerationInput input,
                                const FieldNames& names) const;
  // The canonical request. Encodes the prompt on the calling thread: work for prompts().
  // RESOURCE_EXHAUSTED with a retry delay when it may cost more tokens than its key has left.
  absl::StatusOr<Generation> Encode(Checked checked, const FieldNames& names,
                                    const text::Interrupt* interrupt) const;
  PromptLanes& prompts() { return prompts_; }
  // Runs a request; its key is for Abandon, 0 when it is over already. Everything that goes wrong
  // goes to the sink: ALREADY_EXISTS for the id of a running request.
  uint64_t Submit(Admission admission, Generation generation, std::shared_ptr<GenerationSink> sink);
  // Nobody wants the answer any more: forgets the request without another word to its sink.
  void Abandon(uint64_t key);
  // Ends a request's choices with reason kCancelled. `done` gets NOT_FOUND when the principal's
  // tenant runs no such request; called on the core thread.
  void CancelById(const Principal& principal, std::string request_id,
                  std::function<void(absl::Status)> done);

  // What the controller says, at every report period.
  void UpdateCluster(const placement::ClusterView& view);
  // What /readyz says besides, though it hinders nothing; empty: nothing.
  void SetNote(std::string note);
  http::Readiness readiness() const;
  // Identity of the engines connected now; null: none.
  std::shared_ptr<const EngineIdentity> identity() const;
  int32_t num_engines() const;
  int32_t num_running() const { return places_->taken(); }
  const TextModel& model() const { return *model_; }
  const Clock& clock() const { return *options_.clock; }

  // Counts a request that ended before Submit, or one that Submit does not see (tokenize).
  void RecordRequest(const std::string& api, const std::string& tenant, const absl::Status& status);

  // What Drain found and did.
  struct Drained {
    int32_t running = 0;  // admitted before, and not yet at their end
    int32_t cut_off = 0;  // of these, failed because the grace was over
  };
  // Says that it is not ready any more, and serves on.
  void AnnounceEnd() { leaving_ = true; }
  // Refuses new requests and waits for the running ones. After `grace` the rest gets UNAVAILABLE.
  // A request whose end was sent before the call is not among those running. Called once.
  Drained Drain(Duration grace);

  void OnEngineConnected(const std::string& engine, const EngineIdentity& identity) override;
  void OnEngineReach(const std::string& engine, const placement::ExpertKeys& missing) override;
  void OnEngineLeaving(const std::string& engine) override;
  void OnEngineEvents(const std::string& engine, std::vector<SequenceEvent> events,
                      std::function<void()> taken) override;
  void OnEngineLost(const std::string& engine, const absl::Status& why) override;

 private:
  // What other threads may ask about, kept up to date by the core thread.
  struct Snapshot {
    std::shared_ptr<const EngineIdentity> identity;
    int32_t num_engines = 0;
    std::vector<std::string> missing;
  };

  void Run();
  bool Post(std::function<void()> task);
  // Runs `question` on the core thread, after everything posted before, and waits for its answer;
  // `otherwise` when the thread is stopping.
  int32_t AskCore(std::function<int32_t()> question, int32_t otherwise);
  // Any thread.
  void ReplayAnswer(Admission admission, const Generation& generation, GenerationSink& sink);
  // The rest runs on the core thread.
  void ApplyCluster(const placement::ClusterView& view);
  void Tick();
  void TellCache();
  // Decides which engines are used, says so, and refreshes the snapshot.
  void BindEngines();
  void RefreshSnapshot();

  const Options options_;
  const std::shared_ptr<const TextModel> model_;
  const ResumeTokenSigner signer_;
  // Requests that run, wait, or are in preparation.
  const int32_t max_admitted_;
  const std::shared_ptr<Places> places_ = std::make_shared<Places>();
  std::atomic<uint64_t> next_key_{1};
  std::atomic<bool> leaving_{false};
  std::atomic<bool> draining_{false};
  std::atomic<bool> stopping_{false};
  BoundedQueue<std::function<void()>> tasks_;
  HitMetrics hit_metrics_;

  // Core thread only.
  EngineSet engines_;
  const std::unique_ptr<ResponseCache> cache_;  // null: none. Any thread
  ResponseCache::Counts cache_told_;            // what the metrics have been told
  RequestScheduler scheduler_;

  mutable Mutex mutex_;
  Snapshot snapshot_ GUARDED_BY(mutex_);
  std::string note_ GUARDED_BY(mutex_);
  std::thread thread_;
  PromptLanes prompts_;  // stopped first: its work submits requests
};

}  // namespace conclave::gateway
