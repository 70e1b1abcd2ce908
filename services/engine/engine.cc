#include "services/engine/engine.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/engine/dispatch/local_dispatch.h"
#include "services/engine/dispatch/remote_dispatch.h"
#include "services/engine/engine_metrics.h"
#include "services/engine/engine_service.h"
#include "services/engine/kv_plan.h"
#include "services/engine/metered_dispatch.h"
#include "services/engine/model_size.h"
#include "services/engine/step_loop.h"
#include "shared/base/byte_size.h"
#include "shared/base/limits.h"
#include "shared/base/log.h"
#include "shared/base/mutex.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"
#include "shared/experts/expert_set.h"
#include "shared/http/ops_server.h"
#include "shared/placement/member.h"
#include "shared/rpc/advertise.h"
#include "shared/rpc/server.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/engine_weights.h"
#include "shared/weights/expert_weights.h"

namespace conclave::engine {
namespace {

// An engine whose loop has not turned for so long is not ready.
constexpr Duration kOldestTurn = std::chrono::seconds(5);
// Missing experts that /readyz names; the rest is a number.
constexpr size_t kMostNamed = 8;
// What is under way to gateways has this long to leave when the engine ends.
constexpr std::chrono::milliseconds kFlushTime{200};

absl::StatusOr<kernels::NumericsClass> ParseNumerics(const std::string& name) {
  if (name == "auto" || name == "bf16") return kernels::NumericsClass::kBf16;
  if (name == "f32") return kernels::NumericsClass::kF32;
  return absl::InvalidArgumentError(
      absl::StrCat("numerics is \"", name, "\"; it may be auto, f32 or bf16"));
}

absl::StatusOr<kernels::CpuLevel> ParseLevel(const std::string& name) {
  if (name == "auto") return kernels::BestCpuLevel();
  const auto level = kernels::ParseCpuLevel(name);
  if (!level.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "engine.cpu_level is \"", name, "\"; it may be auto, reference, avx512 or avx512_bf16"));
  }
  if (!kernels::CpuSupports(*level)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "engine.cpu_level is ", name, ", which this processor does not have; use auto"));
  }
  return *level;
}

placement::ModelIdentity IdentityOf(const weights::Checkpoint& checkpoint,
                                    const CommonOptions& common, kernels::NumericsClass numerics) {
  const weights::ModelConfig& config = checkpoint.config();
  placement::ModelIdentity identity;
  identity.numerics_class = std::string(kernels::NumericsClassName(numerics));
  identity.fingerprint = checkpoint.Fingerprint(identity.numerics_class);
  identity.served_name =
      common.served_name.empty() ? checkpoint.dir().filename().string() : common.served_name;
  identity.num_layers = config.num_layers;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    if (config.IsMoe(layer)) identity.moe_layers.push_back(layer);
  }
  identity.num_experts = config.moe.num_experts;
  identity.expert_bytes = static_cast<int64_t>(weights::ExpertBytes(config, numerics));
  return identity;
}

absl::Status CheckMemory(const weights::ModelConfig& config, kernels::NumericsClass numerics,
                         bool with_experts) {
  const int64_t needed = WeightBytes(SizeOf(config), numerics, with_experts);
  const MemoryLimit memory = ReadMemoryLimit();
  if (needed <= memory.available_bytes) return absl::OkStatus();
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
  absl::Status LoadExperts();
  void StartLoop(int threads);
  bool LocalExperts() const { return options.experts == "local"; }
  void Fail(const absl::Status& status);
  void SetNote(std::string text);
  void NoteProgress(const char* what, int64_t done, int64_t total);
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
  kernels::NumericsClass numerics = kernels::NumericsClass::kBf16;
  kernels::CpuLevel level = kernels::CpuLevel::kReference;
  std::shared_ptr<const weights::Checkpoint> checkpoint;
  placement::ModelIdentity identity;
  std::string system_fingerprint;

  std::unique_ptr<kernels::Context> context;
  std::shared_ptr<const weights::EngineWeights> weights;
  std::unique_ptr<experts::ExpertSet> experts;  // of experts = local
  std::unique_ptr<LocalDispatch> local_dispatch;
  std::unique_ptr<ExpertDispatch> dispatch;
  RemoteDispatch* remote_dispatch =
      nullptr;  // `dispatch` when experts = remote, made before the membership
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<Forward> forward;
  std::unique_ptr<EngineService> service;
  std::unique_ptr<Stepper> stepper;
  std::unique_ptr<StepLoop> loop;
  std::unique_ptr<rpc::Server> server;
  std::string address;
  std::unique_ptr<http::OpsServer> ops;

  std::atomic<bool> draining{false};
  std::atomic<bool> loaded{
      false};  // loading has ended; loop and all before it are there unless it failed
  std::atomic<bool> ready{false};
  int64_t context_tokens = 0;  // fixed before `loaded`
  mutable Mutex mutex;
  std::string note GUARDED_BY(mutex) = "opening the model";
  absl::Status failure GUARDED_BY(mutex);

  int64_t logged_tenths = -1;  // load thread alone

  std::unique_ptr<placement::Membership> membership;
  std::thread load_thread;
};

absl::Status Engine::State::Open(const CommonOptions& common_options,
                                 const EngineOptions& engine_options) {
  common = common_options;
  options = engine_options;
  if (common.model.empty()) {
    return absl::InvalidArgumentError(
        "model is not set: pass --model with the checkpoint's folder or org/name");
  }
  ASSIGN_OR_RETURN(secret, rpc::ClusterSecret::Load(common.cluster_secret_file));
  ASSIGN_OR_RETURN(numerics, ParseNumerics(common.numerics));
  ASSIGN_OR_RETURN(level, ParseLevel(options.cpu_level));
  ASSIGN_OR_RETURN(const std::filesystem::path dir, weights::ResolveModelDir(common.model));
  ASSIGN_OR_RETURN(checkpoint,
                   weights::Checkpoint::Open(dir, {.config = {.strict = common.strict_config}}));
  for (const std::string& warning : checkpoint->warnings()) LogWarning(warning);
  RETURN_IF_ERROR(CheckMemory(checkpoint->config(), numerics, LocalExperts()));
  if (options.context > checkpoint->config().max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("engine.context is ", options.context,
                                                   " and the model was made for at most ",
                                                   checkpoint->config().max_positions, " tokens"));
  }
  identity = IdentityOf(*checkpoint, common, numerics);
  system_fingerprint = absl::StrCat(identity.served_name, "-", identity.numerics_class, "-cpu1-",
                                    identity.fingerprint.substr(0, 4));
  return absl::OkStatus();
}

absl::Status Engine::State::Serve() {
  service =
      std::make_unique<EngineService>(EngineService::Options{.secret = secret}, &metrics, &clock);
  grpc::Service* const services[] = {service.get()};
  ASSIGN_OR_RETURN(server,
                   rpc::Server::Start({.name = absl::StrCat("engine ", options.name),
                                       .listen = options.listen,
                                       .secret = secret,
                                       .insecure = common.insecure,
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
  if (!LocalExperts()) {
    ASSIGN_OR_RETURN(std::unique_ptr<RemoteDispatch> remote,
                     RemoteDispatch::Create({.engine_name = options.name,
                                             .model = identity,
                                             .numerics = numerics,
                                             .secret = secret,
                                             .registry = &registry}));
    remote_dispatch = remote.get();
    dispatch = std::move(remote);
  }
  placement::Membership::Options membership_options;
  membership_options.controller = common.controller;
  membership_options.secret = secret;
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
    if (loop->WaitUntilWarm(std::chrono::milliseconds(100))) {
      SetNote("");
      ready = true;
      server->SetServing(true);
      membership->ReportNow();
      LogInfo("ready", {{"system_fingerprint", system_fingerprint}, {"address", address}});
      return;
    }
    SetNote(std::string(loop->load().warm_up.message()));
  }
}

absl::Status Engine::State::LoadModel() {
  const weights::ModelConfig& config = checkpoint->config();
  ASSIGN_OR_RETURN(weights, weights::LoadEngineWeights(*checkpoint, numerics,
                                                       [this](int64_t done, int64_t total) {
                                                         NoteProgress("loading", done, total);
                                                       }));
  const int threads = options.threads > 0 ? options.threads : ReadCpuLimit().cores;
  context = std::make_unique<kernels::Context>(level, threads);
  if (LocalExperts()) RETURN_IF_ERROR(LoadExperts());

  const MemoryLimit memory = ReadMemoryLimit();
  const int64_t block_bytes = KvBlockBytesOf(config, numerics);
  ASSIGN_OR_RETURN(const KvPlan plan, PlanKv({.model_context = config.max_positions,
                                              .block_bytes = block_bytes,
                                              .context = options.context,
                                              .kv_bytes = options.kv_memory.bytes,
                                              .max_batch = options.max_batch,
                                              .available_bytes = memory.available_bytes}));
  context_tokens = plan.context_tokens;
  ASSIGN_OR_RETURN(std::unique_ptr<KvMemory> kv_memory, MapKvMemory(plan.num_blocks, block_bytes));
  cache = std::make_unique<KvCache>(std::move(kv_memory));
  LogInfo("memory", {{"weights", FormatBytes(static_cast<int64_t>(weights->bytes()))},
                     {"context", plan.context_tokens},
                     {"kv_memory", FormatBytes(plan.num_blocks * block_bytes)},
                     {"kv_tokens", cache->capacity_tokens()},
                     {"decided_by", plan.reason},
                     {"free", FormatBytes(memory.available_bytes)},
                     {"threads", threads},
                     {"cpu_level", kernels::CpuLevelName(level)}});
  StartLoop(threads);
  return absl::OkStatus();
}

absl::Status Engine::State::LoadExperts() {
  const weights::ModelConfig& config = checkpoint->config();
  experts = std::make_unique<experts::ExpertSet>(checkpoint, numerics);
  const int64_t total = SizeOf(config).num_experts;
  int64_t done = 0;
  for (int32_t layer : identity.moe_layers) {
    for (int32_t expert = 0; expert < config.moe.num_experts; ++expert) {
      if (draining) return absl::CancelledError("the engine was stopped while it loaded");
      RETURN_IF_ERROR(experts->Load({layer, expert}));
      NoteProgress("loading experts", ++done, total);
    }
  }
  local_dispatch = std::make_unique<LocalDispatch>(experts.get(), &clock, context.get());
  dispatch =
      std::make_unique<MeteredDispatch>(local_dispatch.get(), config.moe.num_experts, &registry);
  return absl::OkStatus();
}

void Engine::State::StartLoop(int threads) {
  const weights::ModelConfig& config = checkpoint->config();
  forward = std::make_unique<Forward>(weights, cache->storage(), context_tokens, dispatch.get(),
                                      context.get());
  Stepper::Options stepper_options;
  stepper_options.scheduler.step_budget_ms = options.step_budget_ms;
  stepper_options.scheduler.max_batch = options.max_batch;
  stepper_options.scheduler.max_waiting = options.max_waiting;
  stepper_options.scheduler.context_tokens = context_tokens;
  stepper_options.scheduler.missing_expert_wait =
      std::chrono::milliseconds(options.missing_expert_wait_ms);
  stepper_options.scheduler.fingerprint = identity.fingerprint;
  const ModelSize size = SizeOf(config);
  stepper_options.costs = GuessCosts(size.active_parameters, size.attention_width, threads);
  stepper_options.vocab_size = config.vocab_size;
  stepper = std::make_unique<Stepper>(stepper_options, Stepper::Parts{.forward = forward.get(),
                                                                      .dispatch = dispatch.get(),
                                                                      .cache = cache.get(),
                                                                      .context = context.get(),
                                                                      .sink = service.get(),
                                                                      .metrics = &metrics,
                                                                      .clock = &clock});
  loop = std::make_unique<StepLoop>(
      StepLoop::Options{.max_queued_starts = options.max_waiting + options.max_batch},
      stepper.get(), cache.get(), &clock);
  service->Open({.fingerprint = identity.fingerprint,
                 .served_name = identity.served_name,
                 .numerics_class = identity.numerics_class,
                 .system_fingerprint = system_fingerprint},
                {.vocab_size = config.vocab_size, .context_tokens = context_tokens}, loop.get());
}

void Engine::State::Fail(const absl::Status& status) {
  MutexLock lock(mutex);
  if (failure.ok()) failure = status;
}

void Engine::State::SetNote(std::string text) {
  MutexLock lock(mutex);
  note = std::move(text);
}

// For `ps` at every call, for the log at each tenth.
void Engine::State::NoteProgress(const char* what, int64_t done, int64_t total) {
  const int64_t percent = total > 0 ? done * 100 / total : 100;
  SetNote(absl::StrCat(what, " ", percent, " %"));
  if (percent / 10 == logged_tenths) return;
  logged_tenths = percent / 10;
  LogInfo(what, {{"percent", percent}});
}

placement::MemberStatus Engine::State::Status() const {
  placement::MemberStatus status;
  status.state = draining ? placement::MemberState::kDraining
                 : ready  ? placement::MemberState::kReady
                          : placement::MemberState::kLoading;
  status.model = identity;
  {
    MutexLock lock(mutex);
    status.note = note;
  }
  if (!loaded || loop == nullptr) return status;
  const EngineLoad load = loop->load();
  status.engine.running = load.running;
  status.engine.waiting = load.waiting;
  status.engine.queued_tokens = load.queued_tokens;
  status.engine.kv_used_ratio = load.kv_used_ratio;
  status.engine.context_tokens = context_tokens;
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
    if (!failure.ok()) readiness.missing.push_back(std::string(failure.message()));
  }
  if (loaded && loop != nullptr) {
    const EngineLoad load = loop->load();
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
                             {"model", state->identity.served_name},
                             {"numerics", state->identity.numerics_class},
                             {"fingerprint", state->identity.fingerprint}});
  state->load_thread = std::thread([raw = state.get()] { raw->Load(); });
  return std::unique_ptr<Engine>(new Engine(std::move(state)));
}

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Engine::~Engine() { Drain(std::chrono::milliseconds(0)); }

const std::string& Engine::address() const { return state_->address; }
std::string Engine::ops_address() const { return state_->ops->address(); }
const std::string& Engine::fingerprint() const { return state_->identity.fingerprint; }
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
  if (state_->loop != nullptr) {
    state_->loop->Drain();
    state_->loop->WaitUntilEmpty(grace);
  }
  state_->membership->Leave();
  if (state_->loop != nullptr) state_->loop->Stop();
  state_->server->Drain(kFlushTime);
}

}  // namespace conclave::engine
