#include "shared/placement/member.h"

#include <unistd.h>

#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "conclave/v1/placement.grpc.pb.h"
#include "shared/base/log.h"
#include "shared/base/mutex.h"
#include "shared/base/random_bytes.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"
#include "shared/base/version.h"
#include "shared/placement/topology_file.h"
#include "shared/placement/topology_proto.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"

namespace conclave::placement {
namespace {

constexpr std::chrono::milliseconds kFirstReportPeriod{500};  // until the controller says its own
constexpr std::chrono::milliseconds kReconnectDelay{200};
constexpr std::chrono::milliseconds kLeaveTimeout{1000};
// Between attempts while another cluster's controller listens where this member's did.
constexpr std::chrono::milliseconds kOtherClusterDelay{1000};

std::string DrawIncarnation() { return absl::BytesToHexString(RandomBytes(8)); }

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

// Refusals that no reconnecting cures while the setting stays as it is.
bool IsFinal(const absl::Status& status) {
  return absl::IsAlreadyExists(status) || absl::IsUnauthenticated(status) ||
         absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status);
}

ClusterView ViewOf(const v1::ControllerUpdate& update) {
  ClusterView view;
  for (const v1::TopologyEngine& engine : update.engines()) {
    EngineEndpoint& to = view.engines.emplace_back();
    to.name = engine.name();
    to.address = engine.address();
    to.fingerprint = engine.fingerprint();
    to.served_name = engine.served_name();
    to.state = static_cast<MemberState>(engine.state());
    to.load = {engine.load().running(),         engine.load().waiting(),
               engine.load().queued_tokens(),   engine.load().kv_used_ratio(),
               engine.load().context_tokens(),  engine.load().tokens_per_second(),
               engine.load().last_step_age_ms()};
  }
  return view;
}

}  // namespace

struct Membership::State {
  explicit State(Options o)
      : options(std::move(o)),
        cluster(options.cluster != nullptr ? options.cluster : std::make_shared<rpc::ClusterId>()),
        channel({.address = options.controller,
                 .secret = options.secret,
                 .cluster = cluster,
                 .tls = options.tls}) {}

  using Stream = grpc::ClientReaderWriter<v1::MemberReport, v1::ControllerUpdate>;

  void Run();
  void ServeOneConnection();
  void Read(Stream* stream);
  // An update of another cluster is an error, and changes nothing.
  absl::Status Apply(const v1::ControllerUpdate& update);
  void Adopt(Topology topology, bool keep);
  void AdoptKept();
  void TellEnd(const absl::Status& status);
  void NoteOtherCluster(const absl::Status& status);
  v1::MemberReport MakeReport(bool first, bool leaving);

  const Options options;
  const std::string incarnation = DrawIncarnation();
  const std::string host = HostName();
  const std::shared_ptr<rpc::ClusterId> cluster;
  rpc::Channel channel;

  mutable Mutex mutex;
  CondVar wake;
  std::shared_ptr<const Topology> topology GUARDED_BY(mutex);
  Epoch applied GUARDED_BY(mutex);  // what on_topology has returned from
  uint64_t highest_term GUARDED_BY(mutex) = 0;
  bool report_now GUARDED_BY(mutex) = false;
  bool leaving GUARDED_BY(mutex) = false;
  bool left GUARDED_BY(mutex) =
      false;  // the leaving report went out, or there is nobody to send it to
  bool stop GUARDED_BY(mutex) = false;
  bool stream_broken GUARDED_BY(mutex) = false;
  absl::Status update_refused GUARDED_BY(mutex);  // of this connection
  std::chrono::milliseconds period GUARDED_BY(mutex) = kFirstReportPeriod;
  grpc::ClientContext* current_call GUARDED_BY(mutex) = nullptr;
  std::atomic<bool> connected{false};
  bool refusal_told = false;   // member thread only
  bool outage_told = false;    // member thread only
  std::string idle_reason;     // reader thread only
  bool other_cluster = false;  // member thread, or its reader while that runs
  std::thread thread;
};

v1::MemberReport Membership::State::MakeReport(bool first, bool is_leaving) {
  v1::MemberReport report;
  {
    // Before the status, which then is one by this topology, not by one before it.
    MutexLock lock(mutex);
    if (topology != nullptr) ToProto(applied, report.mutable_seen_epoch());
  }
  const MemberStatus status = options.status();
  report.set_name(options.name);
  report.set_incarnation(incarnation);
  report.set_kind(static_cast<v1::MemberKind>(options.kind));
  report.set_state(static_cast<v1::MemberState>(status.state));
  report.set_address(options.address);
  report.set_ops_address(options.ops_address);
  report.set_pid(getpid());
  report.set_host(host);
  if (!options.host_socket.path.empty()) ToProto(options.host_socket, report.mutable_host_socket());
  report.set_version(absl::StrCat(std::string(Version()), "+", std::string(Commit())));
  if (status.model) ToProto(*status.model, report.mutable_model());
  ToProto(status.holds, report.mutable_holds());
  report.set_capacity_bytes(status.capacity_bytes);
  report.set_note(status.note);
  v1::EngineLoad* engine = report.mutable_engine_load();
  engine->set_running(status.engine.running);
  engine->set_waiting(status.engine.waiting);
  engine->set_queued_tokens(status.engine.queued_tokens);
  engine->set_kv_used_ratio(status.engine.kv_used_ratio);
  engine->set_context_tokens(status.engine.context_tokens);
  engine->set_tokens_per_second(status.engine.tokens_per_second);
  engine->set_last_step_age_ms(status.engine.last_step_age_ms);
  report.mutable_expert_load()->set_rows_per_second(status.expert.rows_per_second);
  report.mutable_expert_load()->set_queue_ms(status.expert.queue_ms);
  report.mutable_gateway_load()->set_running(status.gateway.running);
  report.set_leaving(is_leaving);
  MutexLock lock(mutex);
  report.set_highest_term(highest_term);
  if (topology != nullptr) {
    if (first) ToProto(*topology, report.mutable_last_topology());
  }
  return report;
}

void Membership::State::Adopt(Topology newer, bool keep) {
  auto snapshot = std::make_shared<const Topology>(std::move(newer));
  {
    MutexLock lock(mutex);
    topology = snapshot;
    highest_term = std::max(highest_term, snapshot->epoch.term);
  }
  if (options.on_topology) options.on_topology(snapshot);
  {
    MutexLock lock(mutex);
    applied = snapshot->epoch;
    report_now = true;  // the controller waits for the acknowledgement
  }
  wake.NotifyAll();
  if (keep && !options.state_dir.empty()) {
    const absl::Status written =
        WriteTopologyFile(TopologyFilePath(options.state_dir, options.name), *snapshot);
    if (!written.ok()) LogWarning("topology not kept", {{"error", std::string(written.message())}});
  }
}

absl::Status Membership::State::Apply(const v1::ControllerUpdate& update) {
  RETURN_IF_ERROR(
      cluster->Learn(update.cluster_id(), absl::StrCat("the controller at ", options.controller)));
  NoteOtherCluster(absl::OkStatus());
  {
    MutexLock lock(mutex);
    if (update.term() < highest_term) {
      // A controller of the past. The next report names our term, and it takes a higher one.
      report_now = true;
      wake.NotifyAll();
      return absl::OkStatus();
    }
    highest_term = update.term();
    if (update.report_period_ms() > 0) {
      period = std::chrono::milliseconds(update.report_period_ms());
    }
  }
  if (update.has_topology()) {
    Topology newer = FromProto(update.topology());
    const std::shared_ptr<const Topology> known = [&] {
      MutexLock lock(mutex);
      return topology;
    }();
    if (known == nullptr || newer.epoch > known->epoch) Adopt(std::move(newer), /*keep=*/true);
  }
  if (options.on_cluster && options.kind == MemberKind::kGateway)
    options.on_cluster(ViewOf(update));
  if (options.on_handover && update.handover() != v1::HANDOVER_UNSPECIFIED)
    options.on_handover(static_cast<Handover>(update.handover()));
  if (options.on_idle && update.idle_reason() != idle_reason) {
    idle_reason = update.idle_reason();
    options.on_idle(idle_reason);
  }
  return absl::OkStatus();
}

void Membership::State::Read(Stream* stream) {
  SetThreadName("member-read");
  v1::ControllerUpdate update;
  absl::Status applied;
  while (applied.ok() && stream->Read(&update)) {
    applied = Apply(update);
    if (applied.ok()) connected = true;
  }
  MutexLock lock(mutex);
  if (!applied.ok() && current_call != nullptr) current_call->TryCancel();
  update_refused = applied;
  stream_broken = true;
  wake.NotifyAll();
}

void Membership::State::ServeOneConnection() {
  grpc::ClientContext context;
  channel.Prepare(&context, std::chrono::milliseconds(0));
  {
    MutexLock lock(mutex);
    if (stop || left) return;
    current_call = &context;
    stream_broken = false;
    update_refused = absl::OkStatus();
    report_now = false;
  }
  const std::unique_ptr<v1::PlacementService::Stub> stub =
      v1::PlacementService::NewStub(channel.grpc());
  const std::unique_ptr<Stream> stream = stub->Join(&context);
  std::thread reader;
  bool first = true, broken = false;
  while (true) {
    bool is_leaving;
    {
      MutexLock lock(mutex);
      is_leaving = leaving;
    }
    broken = !stream->Write(MakeReport(first, is_leaving));
    if (broken) break;
    if (first) {
      reader = std::thread([this, &stream] { Read(stream.get()); });
      first = false;
    }
    MutexLock lock(mutex);
    if (is_leaving) break;
    const auto deadline = std::chrono::steady_clock::now() + period;
    while (!report_now && !stop && !leaving && !stream_broken) {
      if (!wake.WaitUntil(mutex, deadline)) break;
    }
    report_now = false;
    if (stop || stream_broken) break;
  }
  stream->WritesDone();
  if (reader.joinable()) {
    // The controller ends the stream after a leaving report; nobody waits longer than this for it.
    // A stream that the controller ended is not cancelled: its status says why.
    {
      MutexLock lock(mutex);
      const auto deadline = std::chrono::steady_clock::now() + kLeaveTimeout;
      while ((leaving || broken) && !stream_broken && !stop) {
        if (!wake.WaitUntil(mutex, deadline)) break;
      }
      if (!stream_broken) context.TryCancel();
    }
    reader.join();
  }
  absl::Status status = rpc::FromGrpc(stream->Finish());
  if (connected.exchange(false)) outage_told = false;
  {
    MutexLock lock(mutex);
    current_call = nullptr;
    if (!update_refused.ok()) status = update_refused;
    if (leaving) {
      left = true;
      wake.NotifyAll();
    }
    if (stop || leaving) return;
  }
  TellEnd(status);
}

// Says once why the connection ended, or could not be made.
void Membership::State::TellEnd(const absl::Status& status) {
  if (rpc::IsOtherCluster(status)) return NoteOtherCluster(status);
  NoteOtherCluster(absl::OkStatus());
  if (IsFinal(status)) {
    if (!refusal_told) {
      LogError("the controller refuses this member",
               {{"controller", options.controller}, {"error", std::string(status.message())}});
      if (options.on_refused) options.on_refused(status);
      refusal_told = true;
    }
  } else if (!outage_told) {
    LogWarning("no controller: going on with the last topology",
               {{"controller", options.controller}, {"error", std::string(status.message())}});
    outage_told = true;
  }
}

// Tells once that another cluster's controller listens where this member's did, and (OK) that this
// is over.
void Membership::State::NoteOtherCluster(const absl::Status& status) {
  if (std::exchange(other_cluster, !status.ok()) == !status.ok()) return;
  std::string note;
  if (!status.ok()) {
    LogError("the controller is of another cluster: going on with the last topology",
             {{"controller", options.controller}, {"error", std::string(status.message())}});
    note = absl::StrCat("no controller of this cluster at ", options.controller, ": ",
                        std::string(status.message()));
  }
  if (options.on_note) options.on_note(note);
}

void Membership::State::AdoptKept() {
  absl::StatusOr<std::optional<Topology>> kept =
      ReadTopologyFile(TopologyFilePath(options.state_dir, options.name));
  if (kept.ok() && !kept->has_value()) return;
  const absl::Status usable =
      kept.ok() ? cluster->Learn((*kept)->cluster_id, "the kept topology") : kept.status();
  if (rpc::IsOtherCluster(usable)) {
    LogInfo("starting without the last topology", {{"reason", std::string(usable.message())}});
  } else if (!usable.ok()) {
    LogWarning("starting without the last topology", {{"error", std::string(usable.message())}});
  } else {
    Adopt(**std::move(kept), /*keep=*/false);
  }
}

void Membership::State::Run() {
  SetThreadName("member");
  if (!options.state_dir.empty()) AdoptKept();
  while (true) {
    ServeOneConnection();
    MutexLock lock(mutex);
    const auto deadline =
        std::chrono::steady_clock::now() + (other_cluster ? kOtherClusterDelay : kReconnectDelay);
    while (!stop && !leaving) {
      if (!wake.WaitUntil(mutex, deadline)) break;
    }
    if (leaving) left = true;
    wake.NotifyAll();
    if (stop || left) return;
  }
}

absl::StatusOr<std::unique_ptr<Membership>> Membership::Start(Options options) {
  if (options.name.empty()) return absl::InvalidArgumentError("a member needs a name");
  if (options.controller.empty()) {
    return absl::InvalidArgumentError("controller: empty, wanted host:port of the controller");
  }
  if (!options.status) return absl::InvalidArgumentError("a member needs a status callback");
  auto state = std::make_unique<State>(std::move(options));
  State* raw = state.get();
  state->thread = std::thread([raw] { raw->Run(); });
  return std::unique_ptr<Membership>(new Membership(std::move(state)));
}

Membership::Membership(std::unique_ptr<State> state) : state_(std::move(state)) {}

Membership::~Membership() {
  Leave();
  {
    MutexLock lock(state_->mutex);
    state_->stop = true;
    if (state_->current_call != nullptr) state_->current_call->TryCancel();
  }
  state_->wake.NotifyAll();
  state_->thread.join();
}

std::shared_ptr<const Topology> Membership::topology() const {
  MutexLock lock(state_->mutex);
  return state_->topology;
}

bool Membership::connected() const { return state_->connected; }

void Membership::ReportNow() {
  {
    MutexLock lock(state_->mutex);
    state_->report_now = true;
  }
  state_->wake.NotifyAll();
}

void Membership::Leave() {
  MutexLock lock(state_->mutex);
  state_->leaving = true;
  state_->wake.NotifyAll();
  const auto deadline = std::chrono::steady_clock::now() + kLeaveTimeout;
  while (!state_->left) {
    if (!state_->wake.WaitUntil(state_->mutex, deadline)) break;
  }
}

}  // namespace conclave::placement
