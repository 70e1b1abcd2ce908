#include "services/engine/engine.h"

#include <algorithm>
#include <atomic>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/engine/dispatch/remote_dispatch.h"
#include "services/engine/engine_metrics.h"
#include "services/engine/engine_service.h"
#include "services/engine/loaded_model.h"
#include "shared/base/byte_size.h"
#include "shared/base/limits.h"
#include "shared/base/log.h"
#include "shared/base/mutex.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"
#include "shared/http/ops_server.h"
#include "shared/model/served_model.h"
#include "shared/placement/member.h"
#include "shared/rpc/advertise.h"
#include "shared/rpc/server.h"
#include "shared/rpc/watched_tls.h"
#include "shared/shm/host_socket.h"
#include "shared/weights/engine_weights.h"

namespace conclave::engine {
namespace {

// An engine whose loop has not turned for so long is not ready.
constexpr Duration kOldestTurn = std::chrono::seconds(5);
// Missing experts that /readyz names; the rest is a number.
constexpr size_t kMostNamed = 8;
// Loading writes a line to the log this often.
constexpr Duration kProgressLinePeriod = std::chrono::seconds(2);
// Gateways have this long to close their streams once no sequence is left.
constexpr std::chrono::milliseconds kGoodbyeTime{1000};
// What is under way to gateways has this long to leave when the engine ends.
constexpr std::chrono::milliseconds kFlushTime{200};

// Before anything is loaded: the weights and a KV cache as the settings want it.
absl::Status CheckMemory(const model::ServedModel& model, const EngineOptions& options) {
  const bool with_experts = options.experts == "local";
  int64_t needed =
      static_cast<int64_t>(weights::EngineBytes(model.stored->config(), model.formats));
  if (with_experts) {
    needed += static_cast<int64_t>(model.identity.moe_layers.size()) * model.identity.num_experts *
              model.identity.expert_bytes;
  }
  const MemoryLimit memory = ReadMemoryLimit();
  if (needed <= memory.available_bytes) {
    const absl::Status planned = PlanCache(model.stored->config(), model.formats.numerics, options,
                                           memory.available_bytes - needed)
                                     .status();
    if (!absl::IsResourceExhausted(planned)) return planned;
    return absl::ResourceExhaustedError(
        absl::StrCat(std::string(planned.message()), " (limit: ", memory.reason,
                     "; the weights take ", FormatBytes(needed), ")"));
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("the weights need ", FormatBytes(needed), " and ",
                   FormatBytes(memory.available_bytes), " are free (limit: ", memory.reason, "): ",
                   with_experts ? "set engine.experts to remote and run expert workers"
                                : "free memory or use a larger machine"));
}

}  // namespace

struct Engine::State {
  State() : metrics(&registry) {}

  absl::Status Open(const CommonOptions& common_options, const EngineOptions& engine_options);
  absl::Status Serve();
  absl::Status Join();
  void Load();
  absl::Status LoadModel();
  void Fail(const absl::Status& status);
  void SetNote(std::string text);
  void NoteProgress(std::string_view what, int64_t done, int64_t total);
  placement::MemberStatus Status() const;
  http::Readiness Ready() const;

  // In the order of construction; destruction goes backwards: first whoever calls, last what is
  // called.
  SteadyClock clock;
  CommonOptions common;
  EngineOptions options;
  metrics::Registry registry;
  EngineMetrics metrics;
  rpc::ClusterSecret secret;
  rpc::WatchedTls tls;
  std::shared_ptr<rpc::ClusterId> cluster;
  kernels::CpuLevel level = kernels::CpuLevel::kReference;
  model::ServedModel model;
  std::string system_fingerprint;

  std::unique_ptr<EngineService> service;
  std::unique_ptr<RemoteDispatch> remote_dispatch;  // null: experts = local
  std::unique_ptr<LoadedModel> loaded_model;        // set before `loaded`; null when loading failed
  std::unique_ptr<rpc::Server> server;
  std::string address;
  std::unique_ptr<http::OpsServer> ops;

  std::atomic<bool> draining{false};
  std::atomic<bool> loaded{false};  // loading has ended, well or not
  std::atomic<bool> ready{false};
  mutable Mutex mutex;
  std::string note GUARDED_BY(mutex) = "opening the model";
  std::string membership_note GUARDED_BY(mutex);  // for /readyz
  absl::Status failure GUARDED_BY(mutex);

  TimePoint next_progress_line;  // load thread alone

  std::unique_ptr<placement::Membership> membership;
  std::thread load_thread;
};

absl::Status Engine::State::Open(const CommonOptions& common_options,
                                 const EngineOptions& engine_options) {
  common = common_options;
  options = engine_options;
  ASSIGN_OR_RETURN(secret, rpc::ClusterSecret::Load(common.cluster_secret_file));
  ASSIGN_OR_RETURN(tls, rpc::StartClusterTls(common.tls, common.tls_server_name, &registry));
  cluster = std::make_shared<rpc::ClusterId>(common.cluster_id);
  ASSIGN_OR_RETURN(level, model::ChooseCpuLevel("engine.cpu_level", options.cpu_level));
  ASSIGN_OR_RETURN(model, model::OpenServedModel(common));
  const weights::ModelConfig& config = model.stored->config();
  if (options.context > config.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("engine.context is ", options.context,
                                                   " and the model was made for at most ",
                                                   config.max_positions, " tokens"));
  }
  RETURN_IF_ERROR(CheckMemory(model, options));
  system_fingerprint = absl::StrCat(model.identity.served_name, "-", model.identity.numerics_class,
                                    "-cpu1-", model.identity.fingerprint.substr(0, 4));
  return absl::OkStatus();
}

absl::Status Engine::State::Serve() {
  service = std::make_unique<EngineService>(
      EngineService::Options{.secret = secret, .cluster = cluster}, &metrics, &clock);
  grpc::Service* const services[] = {service.get()};
  ASSIGN_OR_RETURN(server,
                   rpc::Server::Start({.name = absl::StrCat("engine ", options.name),
                                       .listen = options.listen,
                                       .secret = secret,
                                       .insecure = common.insecure,
                                       .tls = tls.credentials,
                                       .health_names = {v1::EngineService::service_full_name()}},
                                      services));
  ASSIGN_OR_RETURN(address,
                   rpc::AdvertisedAddress(server->address(), options.advertise, common.controller));
  ASSIGN_OR_RETURN(ops, http::OpsServer::Start({.listen = options.ops_listen,
                                                .readiness = [this] { return Ready(); },
                                                .registry = &registry}));
  return absl::OkStatus();
}

absl::Status Engine::State::Join() {
  if (options.experts == "remote") {
    ASSIGN_OR_RETURN(
        remote_dispatch,
        RemoteDispatch::Create({.engine_name = options.name,
                                .model = model.identity,
                                .numerics = model.formats.numerics,
                                .secret = secret,
                                .tls = tls.credentials,
                                .cluster = cluster,
                                .host_id = options.host_links ? shm::HostId() : "",
                                .registry = &registry,
                                .on_missing = [this](const placement::ExpertKeys& missing) {
                                  service->SetMissing(missing);
                                }}));
  }
  placement::Membership::Options membership_options;
  membership_options.controller = common.controller;
  membership_options.secret = secret;
  membership_options.tls = tls.credentials;
  membership_options.cluster = cluster;
  membership_options.name = options.name;
  membership_options.kind = placement::MemberKind::kEngine;
  membership_options.address = address;
  ASSIGN_OR_RETURN(membership_options.ops_address,
                   rpc::AdvertisedAddress(ops->address(), options.advertise, common.controller));
  membership_options.state_dir = StateDir(common);
  membership_options.status = [this] { return Status(); };
  if (remote_dispatch != nullptr) {
    membership_options.on_topology = [this](std::shared_ptr<const placement::Topology> topology) {
      remote_dispatch->Apply(*topology);
    };
  }
  membership_options.on_refused = [this](const absl::Status& status) { Fail(status); };
  membership_options.on_note = [this](const std::string& text) {
    MutexLock lock(mutex);
    membership_note = text;
  };
  ASSIGN_OR_RETURN(membership, placement::Membership::Start(std::move(membership_options)));
  return absl::OkStatus();
}

void Engine::State::Load() {
  SetThreadName("load");
  if (const absl::Status status = LoadModel(); !status.ok()) {
    Fail(status);
    loaded = true;
    return;
  }
  loaded = true;
  SetNote("warming up");
  while (!draining) {
    if (loaded_model->loop().WaitUntilWarm(std::chrono::milliseconds(100))) {
      SetNote("");
      ready = true;
      server->SetServing(true);
      membership->ReportNow();
      LogInfo("ready", {{"system_fingerprint", system_fingerprint}, {"address", address}});
      return;
    }
    SetNote(std::string(loaded_model->loop().load().warm_up.message()));
  }
}

absl::Status Engine::State::LoadModel() {
  next_progress_line = clock.Now() + kProgressLinePeriod;  // what is quick is not worth a line
  ASSIGN_OR_RETURN(
      loaded_model,
      LoadedModel::Load({.model = &model,
                         .options = &options,
                         .level = level,
                         .remote = remote_dispatch.get(),
                         .sink = service.get(),
                         .metrics = &metrics,
                         .registry = &registry,
                         .clock = &clock,
                         .progress = [this](std::string_view what, int64_t done,
                                            int64_t total) { NoteProgress(what, done, total); },
                         .stop = &draining}));
  service->Open({.fingerprint = model.identity.fingerprint,
                 .served_name = model.identity.served_name,
                 .numerics_class = model.identity.numerics_class,
                 .system_fingerprint = system_fingerprint,
                 .max_running = options.max_batch,
                 .prefix_cache = options.prefix_cache,
                 .kv_tokens = loaded_model->kv_tokens()},
                {.vocab_size = model.stored->config().vocab_size,
                 .context_tokens = loaded_model->context_tokens()},
                &loaded_model->loop());
  return absl::OkStatus();
}

void Engine::State::Fail(const absl::Status& status) {
  MutexLock lock(mutex);
  if (failure.ok()) failure = status;
}

void Engine::State::SetNote(std::string text) {
  MutexLock lock(mutex);
  note = std::move(text);
}

// For `ps` at every call, for the log now and then.
void Engine::State::NoteProgress(std::string_view what, int64_t done, int64_t total) {
  const int64_t percent = total > 0 ? done * 100 / total : 100;
  SetNote(absl::StrCat(std::string(what), " ", percent, " %"));
  const TimePoint now = clock.Now();
  if (now < next_progress_line) return;
  next_progress_line = now + kProgressLinePeriod;
  LogInfo(what, {{"percent", percent}});
}

placement::MemberStatus Engine::State::Status() const {
  placement::MemberStatus status;
  status.state = draining ? placement::MemberState::kDraining
                 : ready  ? placement::MemberState::kReady
                          : placement::MemberState::kLoading;
  status.model = model.identity;
  {
    MutexLock lock(mutex);
    status.note = note;
  }
  if (!loaded || loaded_model == nullptr) return status;
  const EngineLoad load = loaded_model->loop().load();
  status.engine.running = load.running;
  status.engine.waiting = load.waiting;
  status.engine.queued_tokens = load.queued_tokens;
  status.engine.kv_used_ratio = load.kv_used_ratio;
  status.engine.context_tokens = loaded_model->context_tokens();
  status.engine.tokens_per_second = load.tokens_per_second;
  status.engine.last_step_age_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(load.last_turn_age).count();
  return status;
}

http::Readiness Engine::State::Ready() const {
  http::Readiness readiness;
  if (draining) readiness.missing.push_back("the engine is draining");
  {
    MutexLock lock(mutex);
    if (!note.empty()) readiness.missing.push_back(note);
    if (!membership_note.empty()) readiness.notes.push_back(membership_note);
    if (!failure.ok()) readiness.missing.push_back(std::string(failure.message()));
  }
  if (loaded && loaded_model != nullptr) {
    const EngineLoad load = loaded_model->loop().load();
    if (load.last_turn_age > kOldestTurn) {
      readiness.missing.push_back(absl::StrCat(
          "no step for ",
          std::chrono::duration_cast<std::chrono::seconds>(load.last_turn_age).count(), " s"));
    }
    for (size_t i = 0; i < load.missing_experts.size(); ++i) {
      if (i == kMostNamed) {
        readiness.missing.push_back(
            absl::StrCat(load.missing_experts.size() - i, " more experts have no live worker"));
        break;
      }
      readiness.missing.push_back(absl::StrCat("layer ", load.missing_experts[i].first, " expert ",
                                               load.missing_experts[i].second,
                                               " has no live worker"));
    }
  }
  readiness.ready = readiness.missing.empty();
  return readiness;
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Start(const CommonOptions& common,
                                                      const EngineOptions& options) {
  auto state = std::make_unique<State>();
  RETURN_IF_ERROR(state->Open(common, options));
  RETURN_IF_ERROR(state->Serve());
  RETURN_IF_ERROR(state->Join());
  LogInfo("engine started", {{"address", state->address},
                             {"ops_address", state->ops->address()},
                             {"model", state->model.identity.served_name},
                             {"numerics", state->model.identity.numerics_class},
                             {"fingerprint", state->model.identity.fingerprint}});
  state->load_thread = std::thread([raw = state.get()] { raw->Load(); });
  return std::unique_ptr<Engine>(new Engine(std::move(state)));
}

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Engine::~Engine() { Drain(std::chrono::milliseconds(0)); }

const std::string& Engine::address() const { return state_->address; }
std::string Engine::ops_address() const { return state_->ops->address(); }
const std::string& Engine::fingerprint() const { return state_->model.identity.fingerprint; }
const std::string& Engine::system_fingerprint() const { return state_->system_fingerprint; }
bool Engine::ready() const { return state_->ready && !state_->draining; }
bool Engine::loading() const { return !state_->loaded; }

absl::Status Engine::Failure() const {
  MutexLock lock(state_->mutex);
  return state_->failure;
}

void Engine::Leave() { state_->membership->Leave(); }

void Engine::Drain(std::chrono::milliseconds grace) {
  if (state_->draining.exchange(true)) return;
  state_->server->SetServing(false);
  state_->membership->ReportNow();
  state_->load_thread.join();
  StepLoop* const loop = state_->loaded_model != nullptr ? &state_->loaded_model->loop() : nullptr;
  if (loop != nullptr) {
    loop->Drain();
    state_->service->Leave();
    if (loop->WaitUntilEmpty(grace)) {
      state_->service->WaitUntilAlone(std::min(grace, kGoodbyeTime));
    }
  }
  state_->membership->Leave();
  if (loop != nullptr) loop->Stop();
  state_->server->Drain(kFlushTime);
}

}  // namespace conclave::engine
