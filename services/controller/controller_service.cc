#include "services/controller/controller_service.h"

#include <algorithm>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "services/controller/report_proto.h"
#include "shared/base/json_file.h"
#include "shared/base/log.h"
#include "shared/base/mutex.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"
#include "shared/placement/topology_proto.h"
#include "shared/rpc/server.h"
#include "shared/rpc/status.h"

namespace conclave::controller {
namespace {

constexpr std::chrono::milliseconds kTickPeriod{50};

std::string KeptFilePath(const std::string& state_dir) { return state_dir + "/controller.json"; }

// What a controller keeps for the next one: all else is rebuilt from what members report.
struct Kept {
  uint64_t term = 0;
  std::string cluster_id;  // empty: none yet
};

absl::StatusOr<Kept> ReadKept(const std::string& path) {
  const absl::StatusOr<nlohmann::json> file = ReadJsonFile(path);
  if (absl::IsNotFound(file.status())) return Kept{};
  RETURN_IF_ERROR(file.status());
  const bool good = file->is_object() && file->contains("term") &&
                    (*file)["term"].is_number_unsigned() &&
                    (!file->contains("cluster_id") || (*file)["cluster_id"].is_string());
  if (!good) {
    return absl::DataLossError(
        path + R"(: wanted {"term": N, "cluster_id": "..."}; delete the file to start anew)");
  }
  return Kept{(*file)["term"].get<uint64_t>(), file->value("cluster_id", "")};
}

absl::Status WriteKept(const std::string& path, const Kept& kept) {
  return WriteJsonFile(path, {{"term", kept.term}, {"cluster_id", kept.cluster_id}});
}

std::string KindName(placement::MemberKind kind) {
  switch (kind) {
    case placement::MemberKind::kGateway:
      return "gateway";
    case placement::MemberKind::kEngine:
      return "engine";
    case placement::MemberKind::kExpert:
      return "expert";
  }
  return "unknown";
}

}  // namespace

struct ControllerService::State {
  State(const Options& o, uint64_t term, const Clock* clock)
      : options(o), cluster_id(o.cluster_id), cluster(o.cluster, term, clock) {}

  void Run(uint64_t kept_term);
  // After every change of the cluster: sends what is new.
  void Distribute() REQUIRES(mutex);
  void UpdateMetrics() REQUIRES(mutex);
  // The events that were not logged yet, which count as logged from now on.
  std::vector<ClusterEvent> UnloggedEvents() REQUIRES(mutex);

  const Options options;  // with the cluster id that holds
  const rpc::ClusterId cluster_id;
  mutable Mutex mutex;
  CondVar wake;
  Cluster cluster GUARDED_BY(mutex);
  std::set<MemberStream*> streams GUARDED_BY(mutex);
  placement::Epoch published GUARDED_BY(mutex);
  std::map<placement::MemberKind, int64_t> expirations_counted GUARDED_BY(mutex);
  uint64_t num_events_logged GUARDED_BY(mutex) = 0;
  bool stopping GUARDED_BY(mutex) = false;
  std::thread ticker;
};

// One member's stream. All its state is guarded by the service's mutex; gRPC calls back on its own
// threads.
class ControllerService::MemberStream final
    : public grpc::ServerBidiReactor<v1::MemberReport, v1::ControllerUpdate> {
 public:
  explicit MemberStream(State* state) : state_(state) {
    MutexLock lock(state_->mutex);
    state_->streams.insert(this);
    if (state_->stopping) {
      EndLocked(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the controller is stopping"));
      return;
    }
    StartRead(&report_);
  }

  void OnReadDone(bool ok) override {
    MutexLock lock(state_->mutex);
    if (ended_) return;
    if (!ok) {
      EndLocked(grpc::Status::OK);
      return;
    }
    Report report = FromProto(report_);
    name_ = report.name;
    incarnation_ = report.incarnation;
    is_gateway_ = report.kind == placement::MemberKind::kGateway;
    const bool leaving = report.leaving;
    if (const absl::Status taken = state_->cluster.OnReport(std::move(report)); !taken.ok()) {
      name_.clear();  // the name is not this stream's
      EndLocked(rpc::ToGrpc(taken));
      return;
    }
    if (leaving) {
      state_->Distribute();
      EndLocked(grpc::Status::OK);
      return;
    }
    if (is_gateway_) due_ = true;
    state_->Distribute();
    SendIfDueLocked();
    StartRead(&report_);
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(state_->mutex);
    writing_ = false;
    if (ended_) {
      if (!finished_) FinishLocked();
      return;
    }
    if (!ok) return;  // the read fails too and ends the stream
    SendIfDueLocked();
  }

  void OnDone() override {
    {
      MutexLock lock(state_->mutex);
      state_->streams.erase(this);
      if (!name_.empty()) state_->cluster.OnDisconnected(name_, incarnation_);
      state_->wake.NotifyAll();
    }
    delete this;
  }

  // With the mutex held:
  void SendIfDueLocked() REQUIRES(state_->mutex) {
    if (ended_ || writing_ || name_.empty()) return;
    const placement::Topology& topology = state_->cluster.topology();
    const placement::Handover handover = state_->cluster.HandoverOf(name_);
    const std::string& idle = state_->cluster.WhyIdle(name_);
    const bool newer = !sent_any_ || topology.epoch != sent_;
    if (!newer && !due_ && handover == sent_handover_ && idle == sent_idle_) return;
    update_.Clear();
    update_.set_term(state_->cluster.term());
    update_.set_lease_ms(
        std::chrono::duration_cast<std::chrono::milliseconds>(state_->options.cluster.lease)
            .count());
    update_.set_report_period_ms(state_->options.report_period.count());
    update_.set_cluster_id(state_->options.cluster_id);
    if (newer) placement::ToProto(topology, update_.mutable_topology());
    if (is_gateway_) ToProto(state_->cluster.view(), &update_);
    update_.set_handover(static_cast<v1::Handover>(handover));
    update_.set_idle_reason(idle);
    sent_handover_ = handover;
    sent_idle_ = idle;
    sent_ = topology.epoch;
    sent_any_ = true;
    due_ = false;
    writing_ = true;
    StartWrite(&update_);
  }

  void EndLocked(grpc::Status status) REQUIRES(state_->mutex) {
    if (ended_) return;
    ended_ = true;
    status_ = std::move(status);
    if (!writing_) FinishLocked();
  }

 private:
  void FinishLocked() REQUIRES(state_->mutex) {
    finished_ = true;
    Finish(status_);
  }

  State* const state_;
  v1::MemberReport report_;
  v1::ControllerUpdate update_;
  std::string name_, incarnation_;
  bool is_gateway_ = false;
  bool writing_ = false, ended_ = false, finished_ = false, due_ = false, sent_any_ = false;
  placement::Epoch sent_;
  placement::Handover sent_handover_ = placement::Handover::kNone;
  std::string sent_idle_;
  grpc::Status status_;
};

// A term that is published and not kept yet does no harm: members know it, and the next controller
// takes one above theirs.
void ControllerService::State::Run(uint64_t kept_term) {
  SetThreadName("tick");
  while (true) {
    uint64_t term;
    bool last;
    std::vector<ClusterEvent> events;
    {
      MutexLock lock(mutex);
      last = stopping;
      if (!last) {
        cluster.Tick();
        Distribute();
        UpdateMetrics();
      }
      term = cluster.term();
      events = UnloggedEvents();
    }
    for (const ClusterEvent& event : events) LogInfo(event.text, {{"member", event.member}});
    if (last) return;
    if (term != kept_term && !options.state_dir.empty()) {
      const absl::Status kept =
          WriteKept(KeptFilePath(options.state_dir), {term, options.cluster_id});
      if (!kept.ok()) LogWarning("term not kept", {{"error", std::string(kept.message())}});
      kept_term = term;
    }
    MutexLock lock(mutex);
    if (!stopping) wake.WaitFor(mutex, kTickPeriod);
  }
}

std::vector<ClusterEvent> ControllerService::State::UnloggedEvents() {
  const uint64_t num_new =
      cluster.num_events() - std::exchange(num_events_logged, cluster.num_events());
  return num_new == 0 ? std::vector<ClusterEvent>() : cluster.events(num_new);
}

void ControllerService::State::Distribute() {
  published = cluster.topology().epoch;
  for (MemberStream* stream : streams) stream->SendIfDueLocked();
}

void ControllerService::State::UpdateMetrics() {
  if (options.registry == nullptr) return;
  std::map<placement::MemberKind, int> live = {{placement::MemberKind::kGateway, 0},
                                               {placement::MemberKind::kEngine, 0},
                                               {placement::MemberKind::kExpert, 0}};
  for (const MemberRow& row : cluster.members()) live[row.report.kind] += row.live;
  for (const auto& [kind, count] : live) {
    options.registry->GetGauge("conclave_members", {{"kind", KindName(kind)}}).Set(count);
    const int64_t expirations = cluster.num_lease_expirations(kind);
    options.registry->GetCounter("conclave_lease_expirations_total", {{"kind", KindName(kind)}})
        .Increment(static_cast<double>(expirations - expirations_counted[kind]));
    expirations_counted[kind] = expirations;
  }
  options.registry->GetGauge("conclave_topology_term").Set(static_cast<double>(published.term));
  options.registry->GetGauge("conclave_topology_number").Set(static_cast<double>(published.number));
  options.registry->GetGauge("conclave_missing_experts")
      .Set(static_cast<double>(cluster.num_missing_experts()));
}

absl::StatusOr<std::unique_ptr<ControllerService>> ControllerService::Create(const Options& options,
                                                                             const Clock* clock) {
  Kept kept;
  const std::string path = KeptFilePath(options.state_dir);
  if (!options.state_dir.empty()) {
    ASSIGN_OR_RETURN(kept, ReadKept(path));
  }
  kept.term = std::max(kept.term + 1, options.least_term);
  if (!options.cluster_id.empty()) kept.cluster_id = options.cluster_id;
  if (kept.cluster_id.empty()) kept.cluster_id = rpc::DrawClusterId();
  if (!options.state_dir.empty()) RETURN_IF_ERROR(WriteKept(path, kept));
  Options with_id = options;
  with_id.cluster_id = with_id.cluster.cluster_id = kept.cluster_id;
  auto state = std::make_unique<State>(with_id, kept.term, clock);
  State* raw = state.get();
  state->ticker = std::thread([raw, term = kept.term] { raw->Run(term); });
  return std::unique_ptr<ControllerService>(new ControllerService(std::move(state)));
}

ControllerService::ControllerService(std::unique_ptr<State> state) : state_(std::move(state)) {}

ControllerService::~ControllerService() {
  Shutdown();
  state_->ticker.join();
}

void ControllerService::Shutdown() {
  MutexLock lock(state_->mutex);
  state_->stopping = true;
  state_->wake.NotifyAll();
  for (MemberStream* stream : state_->streams) {
    stream->EndLocked(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the controller is stopping"));
  }
}

int ControllerService::num_live_members() const {
  MutexLock lock(state_->mutex);
  int live = 0;
  for (const MemberRow& row : state_->cluster.members()) live += row.live;
  return live;
}

uint64_t ControllerService::term() const {
  MutexLock lock(state_->mutex);
  return state_->cluster.term();
}

std::string ControllerService::cluster_id() const { return state_->options.cluster_id; }

grpc::Status ControllerService::Allowed(const grpc::ServerContextBase& context) const {
  const grpc::Status shown = state_->options.secret.Check(context);
  return shown.ok() ? state_->cluster_id.Check(context) : shown;
}

grpc::ServerBidiReactor<v1::MemberReport, v1::ControllerUpdate>* ControllerService::Join(
    grpc::CallbackServerContext* context) {
  if (const grpc::Status allowed = Allowed(*context); !allowed.ok()) {
    return rpc::RefuseStream<v1::MemberReport, v1::ControllerUpdate>(allowed);
  }
  return new MemberStream(state_.get());
}

grpc::ServerUnaryReactor* ControllerService::GetTopology(grpc::CallbackServerContext* context,
                                                         const v1::GetTopologyRequest*,
                                                         v1::Topology* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const grpc::Status allowed = Allowed(*context);
  if (allowed.ok()) {
    MutexLock lock(state_->mutex);
    placement::ToProto(state_->cluster.topology(), response);
  }
  reactor->Finish(allowed);
  return reactor;
}

grpc::ServerUnaryReactor* ControllerService::ListMembers(grpc::CallbackServerContext* context,
                                                         const v1::ListMembersRequest*,
                                                         v1::ListMembersResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const grpc::Status allowed = Allowed(*context);
  if (allowed.ok()) {
    MutexLock lock(state_->mutex);
    placement::ToProto(state_->cluster.topology().epoch, response->mutable_epoch());
    for (const MemberRow& row : state_->cluster.members()) ToProto(row, response->add_members());
  }
  reactor->Finish(allowed);
  return reactor;
}

grpc::ServerUnaryReactor* ControllerService::ListEvents(grpc::CallbackServerContext* context,
                                                        const v1::ListEventsRequest* request,
                                                        v1::ListEventsResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const grpc::Status allowed = Allowed(*context);
  if (allowed.ok()) {
    MutexLock lock(state_->mutex);
    for (const ClusterEvent& event :
         state_->cluster.events(request->last() > 0 ? request->last() : 0)) {
      v1::ClusterEvent* to = response->add_events();
      to->set_unix_ms(event.unix_ms);
      to->set_member(event.member);
      to->set_text(event.text);
    }
  }
  reactor->Finish(allowed);
  return reactor;
}

}  // namespace conclave::controller
