#include "services/expert/worker.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/expert/compute_loop.h"
#include "services/expert/departure.h"
#include "services/expert/expert_service.h"
#include "services/expert/holdings.h"
#include "services/expert/host_link_server.h"
#include "services/expert/in_flight_limit.h"
#include "services/expert/worker_metrics.h"
#include "shared/base/byte_size.h"
#include "shared/base/clock.h"
#include "shared/base/limits.h"
#include "shared/base/log.h"
#include "shared/base/mutex.h"
#include "shared/base/status_macros.h"
#include "shared/experts/expert_set.h"
#include "shared/http/ops_server.h"
#include "shared/metrics/registry.h"
#include "shared/model/served_model.h"
#include "shared/placement/member.h"
#include "shared/rpc/advertise.h"
#include "shared/rpc/server.h"
#include "shared/rpc/watched_tls.h"
#include "shared/shm/host_socket.h"

namespace conclave::expert {
namespace {

// Request and answer bytes that one engine may have inside the worker before it is read no further:
// some of the longest frames, and their answers.
constexpr uint64_t kStreamWindowBytes = 32 << 20;
// A worker that has left is done when no frame has come for so long.
constexpr std::chrono::milliseconds kQuietTime{50};
constexpr std::chrono::milliseconds kQuietCheck{10};

// What a worker without experts and frames takes, and some more.
constexpr int64_t kOwnBytes = int64_t{64} << 20;

// For `ps`.
std::string DescribeHandover(placement::Handover handover) {
  switch (handover) {
    case placement::Handover::kNone:
    case placement::Handover::kMoving:
      return "handing its experts over";
    case placement::Handover::kNoRoom:
      return "no other worker has room for all of its experts";
    case placement::Handover::kNoTaker:
      return "there is no other worker for its experts";
    case placement::Handover::kDone:
      return "done";
  }
  return "";
}

// What the experts may take where nobody says: the memory of this process, without what it needs
// itself and for frames in flight. It does not depend on the moment, so that a worker that comes
// back has the same.
absl::StatusOr<int64_t> CapacityFor(const ExpertOptions& options, int64_t expert_bytes) {
  if (options.memory.bytes > 0) return options.memory.bytes;
  const MemoryLimit memory = ReadMemoryLimit();
  const int64_t frames = int64_t{options.max_queue_mib} << 20;
  const int64_t kept = kOwnBytes + std::min(frames, memory.total_bytes / 4);
  const int64_t left = memory.total_bytes - kept;
  if (left >= expert_bytes) return left;
  return absl::ResourceExhaustedError(
      absl::StrCat("expert worker ", options.name, " may use ", FormatBytes(memory.total_bytes),
                   " of memory (limit: ", memory.reason, "), of which ", FormatBytes(kept),
                   " are for itself and frames in flight: no expert of ", FormatBytes(expert_bytes),
                   " fits; raise the limit, or set expert.memory"));
}

}  // namespace

struct Worker::State {
  explicit State(int64_t max_queue_bytes)
      : metrics(&registry), limit(static_cast<size_t>(max_queue_bytes)) {}
  ~State() {
    // The loader outlives the membership, which it tells of changes.
    MutexLock lock(mutex);
    reporter = nullptr;
  }

  absl::Status Open(const CommonOptions& common, const ExpertOptions& options);
  absl::Status Serve(const CommonOptions& common, const ExpertOptions& options);
  // Where engines of this host share memory with the worker, if that can be had.
  void OpenHostSocket(const CommonOptions& common, const ExpertOptions& options);
  absl::Status Join(const CommonOptions& common, const ExpertOptions& options);
  placement::MemberStatus Status() const;
  http::Readiness Ready() const;
  std::string WhyUnsettled() const;  // one line, while not all is held that is to be
  std::string Idle() const REQUIRES(mutex) { return absl::StrCat(name, " ", idle_reason); }
  void HoldingsChanged();
  placement::Handover handover_now() const;
  // Returns when no engine needs this worker any more, waiting is of no use, or the time is over.
  void HandOver(TimePoint end);
  void WaitUntilQuiet(TimePoint end);

  // In the order of construction; destruction goes backwards: first whoever calls, last what is
  // called.
  SteadyClock clock;
  metrics::Registry registry;
  WorkerMetrics metrics;
  InFlightLimit limit;
  rpc::ClusterSecret secret;
  rpc::WatchedTls tls;
  std::shared_ptr<rpc::ClusterId> cluster;
  std::string name;
  int64_t capacity_bytes = 0;
  placement::ModelIdentity identity;
  std::unique_ptr<experts::ExpertSet> experts;
  std::unique_ptr<ExpertService> service;
  std::atomic<int> num_streams{0};  // of engines
  StreamContext host_context;       // of streams that the compute loop may own
  std::unique_ptr<ComputeLoop> compute;
  std::unique_ptr<HostLinkServer> host_links;  // may be null
  std::unique_ptr<rpc::Server> server;
  std::string address;
  std::atomic<bool> draining{false};
  std::unique_ptr<Holdings> holdings;
  std::unique_ptr<http::OpsServer> ops;
  mutable Mutex mutex;
  CondVar handover_said;
  placement::Handover handover GUARDED_BY(mutex) = placement::Handover::kNone;
  absl::Status failure GUARDED_BY(mutex);
  std::string note GUARDED_BY(mutex);                           // of the membership, for /readyz
  std::string idle_reason GUARDED_BY(mutex);                    // as the controller gives it
  placement::Membership* reporter GUARDED_BY(mutex) = nullptr;  // `membership` while it lives
  std::unique_ptr<placement::Membership> membership;
};

absl::Status Worker::State::Open(const CommonOptions& common, const ExpertOptions& options) {
  name = options.name;
  ASSIGN_OR_RETURN(secret, rpc::ClusterSecret::Load(common.cluster_secret_file));
  ASSIGN_OR_RETURN(tls, rpc::StartClusterTls(common.tls, common.tls_server_name, &registry));
  cluster = std::make_shared<rpc::ClusterId>(common.cluster_id);
  ASSIGN_OR_RETURN(model::ServedModel model, model::OpenServedModel(common));
  identity = std::move(model.identity);
  ASSIGN_OR_RETURN(capacity_bytes, CapacityFor(options, identity.expert_bytes));
  experts = std::make_unique<experts::ExpertSet>(std::move(model.stored), model.formats);
  return absl::OkStatus();
}

absl::Status Worker::State::Serve(const CommonOptions& common, const ExpertOptions& options) {
  ComputeOptions compute_options;
  ASSIGN_OR_RETURN(compute_options.cpu_level,
                   model::ChooseCpuLevel("expert.cpu_level", options.cpu_level));
  compute_options.num_threads = options.threads > 0 ? options.threads : ReadCpuLimit().cores;
  compute = std::make_unique<ComputeLoop>(compute_options, experts.get(), &clock, &metrics);

  const weights::ModelConfig& config = experts->config();
  StreamContext context;
  ASSIGN_OR_RETURN(context.hello.fingerprint, rpc::ParseFingerprint(identity.fingerprint));
  context.hello.numerics = experts->numerics();
  context.hello.row_type = kernels::RowTypeOf(experts->numerics());
  context.hello.window_bytes = kStreamWindowBytes;
  context.hello.name = options.name;
  context.hidden = static_cast<uint32_t>(config.hidden);
  context.num_layers = static_cast<uint32_t>(config.num_layers);
  context.num_experts = static_cast<uint32_t>(config.moe.num_experts);
  context.compute = compute.get();
  context.limit = &limit;
  context.clock = &clock;
  context.num_streams = &num_streams;
  host_context = context;
  service = std::make_unique<ExpertService>(std::move(context), secret, cluster);
  // Before the port, so that an engine that reaches the port could have reached the socket.
  OpenHostSocket(common, options);
  grpc::Service* const services[] = {service.get()};
  ASSIGN_OR_RETURN(server,
                   rpc::Server::Start({.name = absl::StrCat("expert worker ", options.name),
                                       .listen = options.listen,
                                       .secret = secret,
                                       .insecure = common.insecure,
                                       .tls = tls.credentials,
                                       .health_names = {v1::ExpertService::service_full_name()}},
                                      services));
  ASSIGN_OR_RETURN(address,
                   rpc::AdvertisedAddress(server->address(), options.advertise, common.controller));
  holdings =
      std::make_unique<Holdings>(Holdings::Options{.capacity_bytes = capacity_bytes,
                                                   .expert_bytes = identity.expert_bytes,
                                                   .num_threads = compute_options.num_threads,
                                                   .on_change = [this] { HoldingsChanged(); }},
                                 experts.get());
  ASSIGN_OR_RETURN(ops, http::OpsServer::Start({.listen = options.ops_listen,
                                                .readiness = [this] { return Ready(); },
                                                .registry = &registry}));
  return absl::OkStatus();
}

void Worker::State::OpenHostSocket(const CommonOptions& common, const ExpertOptions& options) {
  if (options.host_socket == "off") return;
  std::string path = options.host_socket;
  if (path == "auto") {
    const std::filesystem::path folder = StateDir(common);
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    path = folder / absl::StrCat(name, ".rows");
  }
  auto started = HostLinkServer::Start(
      {.path = path, .name = name, .secret = secret, .cluster = cluster, .context = &host_context});
  if (started.ok()) {
    host_links = *std::move(started);
    return;
  }
  Log(options.host_socket == "auto" ? LogLevel::kInfo : LogLevel::kWarning,
      "engines of this host are served over gRPC too",
      {{"path", path}, {"reason", std::string(started.status().message())}});
}

absl::Status Worker::State::Join(const CommonOptions& common, const ExpertOptions& options) {
  placement::Membership::Options membership_options;
  membership_options.controller = common.controller;
  membership_options.secret = secret;
  membership_options.tls = tls.credentials;
  membership_options.cluster = cluster;
  membership_options.name = options.name;
  membership_options.kind = placement::MemberKind::kExpert;
  membership_options.address = address;
  ASSIGN_OR_RETURN(membership_options.ops_address,
                   rpc::AdvertisedAddress(ops->address(), options.advertise, common.controller));
  if (host_links != nullptr) membership_options.host_socket = {shm::HostId(), host_links->path()};
  membership_options.state_dir = StateDir(common);
  membership_options.status = [this] { return Status(); };
  membership_options.on_topology = [this](std::shared_ptr<const placement::Topology> topology) {
    const placement::ModelTopology* model = topology->Find(identity.fingerprint);
    const placement::TopologyWorker* self = model != nullptr ? model->FindWorker(name) : nullptr;
    // A topology that does not know this worker gives it no order; what is loaded stays.
    if (self != nullptr) holdings->SetTarget(self->hold);
  };
  membership_options.on_handover = [this](placement::Handover said) {
    {
      MutexLock lock(mutex);
      handover = said;
    }
    handover_said.NotifyAll();
  };
  membership_options.on_refused = [this](const absl::Status& status) {
    MutexLock lock(mutex);
    failure = status;
  };
  membership_options.on_idle = [this](const std::string& reason) {
    if (!reason.empty()) LogWarning("the controller gives no experts", {{"reason", reason}});
    MutexLock lock(mutex);
    idle_reason = reason;
  };
  membership_options.on_note = [this](const std::string& text) {
    MutexLock lock(mutex);
    note = text;
  };
  ASSIGN_OR_RETURN(membership, placement::Membership::Start(std::move(membership_options)));
  MutexLock lock(mutex);
  reporter = membership.get();
  return absl::OkStatus();
}

placement::MemberStatus Worker::State::Status() const {
  placement::MemberStatus status;
  status.state = draining              ? placement::MemberState::kDraining
                 : holdings->settled() ? placement::MemberState::kReady
                                       : placement::MemberState::kLoading;
  status.model = identity;
  status.holds = holdings->Held();
  status.capacity_bytes = capacity_bytes;
  status.note = draining               ? DescribeHandover(handover_now())
                : !holdings->settled() ? WhyUnsettled()
                                       : holdings->Note();
  status.expert = {compute->rows_per_second(), compute->queue_ms()};
  return status;
}

std::string Worker::State::WhyUnsettled() const {
  {
    MutexLock lock(mutex);
    if (!idle_reason.empty()) return Idle();
  }
  return holdings->Note();
}

http::Readiness Worker::State::Ready() const {
  http::Readiness readiness;
  if (draining) readiness.missing.push_back("the worker is leaving");
  const bool settled = holdings->settled();
  if (!settled) readiness.missing.push_back(WhyUnsettled());
  {
    MutexLock lock(mutex);
    if (!note.empty()) readiness.notes.push_back(note);
    if (!idle_reason.empty() && settled) readiness.notes.push_back(Idle());
  }
  readiness.ready = readiness.missing.empty();
  return readiness;
}

void Worker::State::HoldingsChanged() {
  metrics.experts.Set(static_cast<double>(experts->Held().size()));
  metrics.resident_bytes.Set(static_cast<double>(experts->bytes()));
  const weights::SquaredError error = experts->error();
  if (error.weights > 0) metrics.SetQuantizationError(error.Relative());
  const bool settled = holdings->settled();
  server->SetServing(settled && !draining);
  if (settled) {
    LogInfo("holds its experts",
            {{"experts", experts->Held().size()}, {"bytes", experts->bytes()}});
  }
  MutexLock lock(mutex);
  if (reporter != nullptr) reporter->ReportNow();
}

placement::Handover Worker::State::handover_now() const {
  MutexLock lock(mutex);
  return handover;
}

void Worker::State::HandOver(TimePoint end) {
  const TimePoint start = clock.Now();
  if (start >= end) return;
  membership->ReportNow();
  Departure departure({}, start);
  bool done = false;
  TimePoint now = start;
  while (!done && now < end) {
    done = departure.MayLeave({.connected = membership->connected(),
                               .handover = handover_now(),
                               .num_streams = num_streams,
                               .num_frames = compute->num_frames(),
                               .busy = compute->pending() > 0},
                              now);
    if (!done) {
      MutexLock lock(mutex);
      handover_said.WaitFor(mutex, kQuietCheck);
    }
    now = clock.Now();
  }
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now - start).count();
  if (!done) {
    LogWarning("the drain time is over before all experts were handed over", {{"ms", ms}});
  } else if (handover_now() == placement::Handover::kDone) {
    LogInfo("no engine needs this worker any more", {{"ms", ms}});
  } else {
    LogInfo("nobody takes the experts of this worker", {{"ms", ms}});
  }
}

void Worker::State::WaitUntilQuiet(TimePoint end) {
  TimePoint quiet_since = clock.Now();
  uint64_t frames = compute->num_frames();
  while (clock.Now() < end && clock.Now() - quiet_since < kQuietTime) {
    std::this_thread::sleep_for(kQuietCheck);
    if (compute->pending() > 0 || compute->num_frames() != frames) quiet_since = clock.Now();
    frames = compute->num_frames();
  }
}

absl::StatusOr<std::unique_ptr<Worker>> Worker::Start(const CommonOptions& common,
                                                      const ExpertOptions& options) {
  auto state = std::make_unique<State>(int64_t{options.max_queue_mib} << 20);
  RETURN_IF_ERROR(state->Open(common, options));
  RETURN_IF_ERROR(state->Serve(common, options));
  RETURN_IF_ERROR(state->Join(common, options));
  LogInfo("expert worker started", {{"address", state->address},
                                    {"ops_address", state->ops->address()},
                                    {"model", state->identity.served_name},
                                    {"numerics", state->identity.numerics_class},
                                    {"fingerprint", state->identity.fingerprint}});
  return std::unique_ptr<Worker>(new Worker(std::move(state)));
}

Worker::Worker(std::unique_ptr<State> state) : state_(std::move(state)) {}

Worker::~Worker() { Drain(std::chrono::milliseconds(0)); }

const std::string& Worker::address() const { return state_->address; }
const std::string& Worker::fingerprint() const { return state_->identity.fingerprint; }
std::string Worker::ops_address() const { return state_->ops->address(); }

absl::Status Worker::Failure() const {
  MutexLock lock(state_->mutex);
  return state_->failure;
}

void Worker::Drain(std::chrono::milliseconds grace) {
  // First, so that what a draining worker reports is what it keeps.
  state_->holdings->Freeze();
  if (state_->draining.exchange(true)) return;
  state_->server->SetServing(false);
  const TimePoint end = state_->clock.Now() + grace;
  state_->HandOver(end);
  state_->membership->Leave();
  state_->WaitUntilQuiet(end);
  state_->host_links = nullptr;
  state_->server->Drain(std::chrono::milliseconds(0));
}

}  // namespace conclave::expert
