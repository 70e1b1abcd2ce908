// Experts in workers: one frame a worker and layer, through shared memory or over gRPC, answered in
// parts, row by row.
//
// Begin and Finish belong to the step thread. Apply comes from the membership's thread, Missing
// from any. Owns one thread ("dispatch-links") that keeps the links connected.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "services/engine/dispatch/dispatch_metrics.h"
#include "services/engine/dispatch/expert_dispatch.h"
#include "services/engine/dispatch/expert_routes.h"
#include "services/engine/dispatch/worker_link.h"
#include "shared/base/mutex.h"
#include "shared/placement/topology.h"
#include "shared/rpc/cluster_secret.h"
#include "shared/rpc/tls_credentials.h"

namespace conclave::engine {

class RemoteDispatch final : public ExpertDispatch {
 public:
  struct Options {
    std::string engine_name;         // what workers' messages call this engine
    placement::ModelIdentity model;  // of this engine; workers must have the same fingerprint
    kernels::NumericsClass numerics = kernels::NumericsClass::kBf16;
    rpc::ClusterSecret secret = {};
    std::shared_ptr<const rpc::TlsCredentials> tls = {};
    std::shared_ptr<const rpc::ClusterId> cluster = {};  // shown to workers; null: none
    // shm::HostId(): workers with the same one are reached through shared memory. Empty: none is.
    std::string host_id = {};
    // A worker that has not answered a call completely after this fails its rows; one that has not
    // answered at all is disconnected, because what it still computes is of no use. When the
    // deadlines of all of a call's requests come first, the call is cancelled and the worker kept,
    // unless nothing at all has been heard of it for about as long: it is asked for a sign of life.
    std::chrono::milliseconds call_timeout{2000};
    metrics::Registry* registry = nullptr;  // outlives the dispatch
    // Called on the link thread with the experts that have no live worker, first and whenever they
    // change. May be null.
    std::function<void(const placement::ExpertKeys&)> on_missing = {};
  };
  // INVALID_ARGUMENT for a malformed fingerprint.
  static absl::StatusOr<std::unique_ptr<RemoteDispatch>> Create(const Options& options);
  ~RemoteDispatch() override;

  // Adopts a topology: links to workers that are new, none any more to those that are gone and
  // whose experts others have (ExpertRoutes).
  void Apply(const placement::Topology& topology) EXCLUDES(mutex_);

  void Begin(const ExpertCall& call) override;
  // A row whose worker fails is sent to another live worker that serves the expert, if there is
  // one. Cancelled and late answers are dropped.
  ExpertOutcome Finish() override;
  std::vector<std::pair<int32_t, int32_t>> Missing() const override;

 private:
  // A request frame under way.
  struct Call {
    std::shared_ptr<WorkerLink> link;
    uint64_t stream = 0;
    std::vector<uint32_t> rows;  // reference -> token * top_k + choice
    std::vector<bool> answered;  // [rows.size()]
    size_t num_answered = 0;
    bool heard = false;  // a part has come
    TimePoint sent;
  };

  explicit RemoteDispatch(const Options& options, rpc::HelloFrame hello);
  // Of a worker on this host, else empty.
  std::string HostPathOf(const placement::TopologyWorker& worker) const;
  void KeepLinks();
  std::shared_ptr<const ExpertRoutes> Routes() const EXCLUDES(mutex_);

  // Groups rows (indices into expert_ids) by worker and sends them; rows without a live worker
  // fail.
  void SendRows(const std::vector<uint32_t>& rows);
  // Fills worker_of_ for the experts of these rows.
  void ChooseWorkers(const std::vector<uint32_t>& rows);
  void SendToWorker(const std::shared_ptr<WorkerLink>& link, const std::vector<uint32_t>& rows);
  void SendFrame(const std::shared_ptr<WorkerLink>& link, std::vector<uint32_t> rows,
                 const std::vector<rpc::RowReference>& references,
                 const std::vector<int64_t>& tokens);
  std::chrono::milliseconds TimeoutOf(const ExpertCall& call) const;
  TimePoint DueOf(const ExpertCall& call) const;
  // What the headers of all frames of the call have in common.
  rpc::RequestHeader HeaderOf(const ExpertCall& call) const;
  void Handle(LinkEvent event);
  void HandleResults(const ResultsPart& part, std::map<uint64_t, Call>::iterator call);
  // Fails all open calls on this stream.
  void LoseStream(uint64_t stream, const absl::Status& status);
  // Ends the call; its unanswered rows go elsewhere or fail with this status.
  void EndCall(std::map<uint64_t, Call>::iterator call, const absl::Status& status);
  void Timeout();
  void CheckStreams();
  void FailToken(int64_t token, const absl::Status& status);
  // DEADLINE_EXCEEDED when the requests' own time is up, UNAVAILABLE when the worker's is.
  void FailLate(uint32_t row, const std::string& why);
  // UNAVAILABLE: no live worker for this row's expert.
  void FailWithoutWorker(uint32_t row);

  const Options options_;
  const rpc::HelloFrame hello_;
  const std::shared_ptr<LinkInbox> inbox_;
  DispatchMetrics metrics_;

  mutable Mutex mutex_;
  CondVar wake_;
  std::shared_ptr<const ExpertRoutes> routes_ GUARDED_BY(mutex_);
  bool stopping_ GUARDED_BY(mutex_) = false;
  bool links_changed_ GUARDED_BY(mutex_) = false;

  // The step thread's own.
  ExpertCall call_;
  std::shared_ptr<const ExpertRoutes> call_routes_;
  std::vector<std::shared_ptr<const ExpertRoutes>>
      former_routes_;          // of this call: failed_links_ points into them
  rpc::RequestHeader header_;  // of the call's frames
  TimePoint deadline_;
  TimePoint due_;                  // by which frames are ordered: of the call's most urgent rows
  bool ends_by_requests_ = false;  // deadline_ is the requests', before the call's timeout
  uint64_t next_call_id_ = 1;
  std::map<uint64_t, Call> open_;
  std::map<const WorkerLink*, std::string>
      failed_links_;                   // of this call, and why; not chosen again
  std::vector<uint32_t> resend_;       // rows that wait for another worker
  std::vector<uint8_t> token_failed_;  // [num_tokens]
  ExpertOutcome outcome_;

  // Of one SendRows, kept for their memory.
  std::vector<int64_t> rows_of_expert_;                // [num_experts]
  std::vector<int32_t> worker_of_;                     // [num_experts]: index of a link, or -1
  std::vector<int64_t> load_;                          // [links]: rows under way
  std::vector<std::vector<uint32_t>> rows_of_worker_;  // [links]

  std::thread keeper_;
};

}  // namespace conclave::engine
