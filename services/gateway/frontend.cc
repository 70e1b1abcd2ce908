#include "services/gateway/frontend.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/gateway/cache/cache_key.h"
#include "services/gateway/request_record.h"
#include "services/gateway/shared_answer.h"
#include "shared/base/log.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"
#include "shared/rpc/cluster_id.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

constexpr auto kTick = std::chrono::milliseconds(100);
// Tasks of transports are refused beyond the first; engines have the room up to the second to
// themselves, and each has one task at a time.
constexpr size_t kMaxClientTasks = 1 << 16;
constexpr size_t kMaxTasks = 1 << 17;
// Requests whose prompts are being read and encoded, or wait for that.
constexpr int32_t kMostInPreparation = 256;
// What an answer is taken to cost until it is there, if its client does not bound it: few are
// longer.
constexpr int64_t kAssumedAnswerTokens = 512;

// Tokens that a request's key must have left for it. `bounded`: by its client.
int64_t MayCost(const Generation& generation, bool bounded) {
  const auto prompt = static_cast<int64_t>(generation.prompt_ids.size());
  if (generation.answer) return prompt + generation.answer->usage.completion_tokens;
  return prompt +
         generation.num_choices * (bounded ? generation.max_tokens
                                           : std::min(generation.max_tokens, kAssumedAnswerTokens));
}

}  // namespace

Frontend::Frontend(Options options, std::shared_ptr<const TextModel> model)
    : options_(std::move(options)),
      model_(std::move(model)),
      signer_(options_.cluster_secret),
      max_admitted_(options_.scheduler.max_running + options_.scheduler.max_waiting +
                    kMostInPreparation),
      tasks_(kMaxTasks),
      hit_metrics_(options_.registry),
      cache_(options_.cache.capacity_bytes > 0
                 ? std::make_unique<ResponseCache>(options_.cache, options_.clock)
                 : nullptr),
      scheduler_(options_.scheduler, &engines_, model_.get(), &signer_, cache_.get(),
                 options_.registry, options_.clock) {
  DeclareCounters(*options_.registry);
  RefreshSnapshot();
  thread_ = std::thread([this] {
    SetThreadName("gateway-core");
    Run();
  });
}

Frontend::~Frontend() {
  draining_ = true;
  places_->Close();
  prompts_.Stop();
  stopping_ = true;
  tasks_.Close();
  thread_.join();
  for (auto& task : tasks_.PopAll()) task();
  for (auto& [name, engine] : engines_.all()) engine.link.reset();  // waits for its stream
}

absl::StatusOr<std::shared_ptr<const Principal>> Frontend::Authenticate(
    std::string_view authorization) const {
  return options_.keys ? options_.keys->Authenticate(authorization) : Anybody();
}

absl::Status Frontend::TakeRequest(const Principal& principal) const {
  return principal.limit ? principal.limit->TakeRequest(options_.clock->Now()) : absl::OkStatus();
}

absl::StatusOr<Admission> Frontend::Admit(const Principal& principal) {
  RETURN_IF_ERROR(TakeRequest(principal));
  const std::string& tenant = principal.tenant.name;
  const Places::Taken taken = places_->TryTake(max_admitted_, tenant);
  if (taken == Places::Taken::kYes) {
    return Admission(nullptr, [places = places_, tenant](void*) { places->GiveBack(tenant); });
  }
  if (draining_) {
    return rpc::WithDetails(
        absl::UnavailableError("the gateway is shutting down"),
        {.reason = "SHUTTING_DOWN", .metadata = {}, .retry_after_ms = 1000, .fields = {}});
  }
  constexpr std::string_view kSettings = " (gateway.max_running, gateway.max_waiting)";
  return rpc::WithDetails(
      absl::ResourceExhaustedError(
          taken == Places::Taken::kFull
              ? absl::StrCat("all ", max_admitted_, " places for requests are taken",
                             absl::string_view(kSettings.data(), kSettings.size()),
                             "; try again later")
              : absl::StrCat(
                    "of ", max_admitted_, " places for requests",
                    absl::string_view(kSettings.data(), kSettings.size()),
                    ", those that are free are kept for others: this tenant has its share; "
                    "try again when some of its requests have ended")),
      {.reason = "TOO_MANY_REQUESTS", .metadata = {}, .retry_after_ms = 1000, .fields = {}});
}

absl::StatusOr<Frontend::Checked> Frontend::Check(const Principal& principal, GenerationInput input,
                                                  const FieldNames& names) const {
  RETURN_IF_ERROR(CheckModelName(input.model, *model_));
  input.qos = ClassFor(principal, input.qos);
  RETURN_IF_ERROR(MayUse(principal, model_->name(), *input.qos));
  input.tenant = principal.tenant;
  input.key_id = principal.key_id;
  const std::shared_ptr<const EngineIdentity> engine = identity();
  if (!engine) return NoEngine();
  Checked checked;
  checked.limit = principal.limit;
  checked.limits = {.context_tokens = engine->context_tokens, .vocab_size = engine->vocab_size};
  ASSIGN_OR_RETURN(checked.request, CheckRequest(std::move(input), *model_, checked.limits, names));
  Generation& generation = checked.request.generation;
  generation.fingerprint = engine->fingerprint;
  const bool depends_on_time = std::holds_alternative<ChatPromptInput>(checked.request.prompt) &&
                               model_->chat_depends_on_time();
  if (!cache_ || !IsCacheable(checked.request) || depends_on_time) return checked;
  generation.cache_key =
      CacheKeyOf(checked.request, {.text_version = model_->tokenizer()->version(),
                                   .context_tokens = engine->context_tokens,
                                   .tenant = generation.tenant.cache_scope()});
  if (generation.cache == CacheMode::kRefresh) return checked;
  if (std::shared_ptr<const RecordedGeneration> answer = cache_->Find(*generation.cache_key)) {
    RETURN_IF_ERROR(SetPrompt(answer->prompt_ids, checked.limits, names, &generation));
    if (!checked.request.seeded) generation.seed = answer->seed;
    generation.answer = std::move(answer);
  }
  return checked;
}

absl::StatusOr<Generation> Frontend::Encode(Checked checked, const FieldNames& names,
                                            const text::Interrupt* interrupt) const {
  const bool bounded = checked.request.bounded;
  const bool kept = checked.kept_answer() != nullptr;
  absl::StatusOr<Generation> generation =
      kept ? std::move(checked.request.generation)
           : EncodePrompt(std::move(checked.request), *model_, checked.limits, names, interrupt);
  if (!generation.ok()) return generation;
  generation->definition_hash = DefinitionHash(*generation);
  if (!checked.limit) return generation;
  ASSIGN_OR_RETURN(
      generation->reservation,
      TokenReservation::Make(checked.limit, MayCost(*generation, bounded), options_.clock->Now()));
  return generation;
}

uint64_t Frontend::Submit(Admission admission, Generation generation,
                          std::shared_ptr<GenerationSink> sink) {
  if (generation.answer) {
    ReplayAnswer(std::move(admission), generation, *sink);
    return 0;
  }
  const uint64_t key = next_key_.fetch_add(1);
  struct Job {
    Admission admission;
    Generation generation;
  };
  auto job = std::make_shared<Job>(Job{std::move(admission), std::move(generation)});
  if (tasks_.size() >= kMaxClientTasks || !Post([this, key, job, sink] {
        scheduler_.Submit(key, std::move(job->generation), std::move(job->admission), sink);
      })) {
    const absl::Status why = absl::UnavailableError("the gateway is shutting down or overloaded");
    RecordRequest(job->generation.api, job->generation.tenant.name, why);
    sink->OnFailed(why);
    return 0;
  }
  return key;
}

void Frontend::ReplayAnswer(Admission admission, const Generation& generation,
                            GenerationSink& sink) {
  const RecordedGeneration& answer = *generation.answer;
  // Before the end is sent: nobody who has the answer is counted as running.
  admission.reset();
  const RequestRecord record = RequestRecord::Of(generation, CacheStatus::kHit);
  const TimePoint now = options_.clock->Now();
  hit_metrics_.Count(record, answer.usage.completion_tokens, now);
  ChargeAndLogEnd(record, absl::OkStatus(), answer.usage.completion_tokens, "", now);
  Replay(answer,
         StartOf(generation,
                 {.seed = generation.seed,
                  .system_fingerprint = answer.system_fingerprint,
                  .cache = CacheStatus::kHit},
                 *model_, signer_),
         sink);
}

void Frontend::Abandon(uint64_t key) {
  if (key == 0) return;
  Post([this, key] { scheduler_.Abandon(key); });
}

void Frontend::CancelById(const Principal& principal, std::string request_id,
                          std::function<void(absl::Status)> done) {
  const bool posted = tasks_.size() < kMaxClientTasks &&
                      Post([this, tenant = principal.tenant.name, request_id, done] {
                        done(scheduler_.Cancel(tenant, request_id));
                      });
  if (!posted) done(absl::UnavailableError("the gateway is shutting down or overloaded"));
}

void Frontend::UpdateCluster(const placement::ClusterView& view) {
  Post([this, view] { ApplyCluster(view); });
}

std::shared_ptr<const EngineIdentity> Frontend::identity() const {
  MutexLock lock(mutex_);
  return snapshot_.identity;
}

int32_t Frontend::num_engines() const {
  MutexLock lock(mutex_);
  return snapshot_.num_engines;
}

void Frontend::RecordRequest(const std::string& api, const std::string& tenant,
                             const absl::Status& status) {
  CountRequest(*options_.registry, api, tenant, status);
}

void Frontend::OnEngineConnected(const std::string& engine, const EngineIdentity& identity) {
  Post([this, engine, identity] {
    EngineSet::Engine* const known = engines_.Find(engine);
    if (!known) return;
    known->refusal.clear();
    known->offered.reset();
    known->identity.reset();
    known->prefixes = {};
    known->last_event = options_.clock->Now();
    known->silent = false;
    if (identity.served_name != model_->name()) {
      known->refusal = absl::StrCat(engine, " serves \"", identity.served_name,
                                    "\", this gateway \"", model_->name(), "\"");
    } else if (identity.vocab_size < model_->tokenizer()->vocab_size()) {
      known->refusal = absl::StrCat("the embedding of ", engine, " has ", identity.vocab_size,
                                    " rows, but the tokenizer has ids up to ",
                                    model_->tokenizer()->vocab_size() - 1);
    } else {
      known->offered = identity;
      known->leaving = known->finished = false;
      LogInfo("engine connected",
              {{"engine", engine}, {"fingerprint", identity.system_fingerprint}});
    }
    if (!known->refusal.empty()) LogError(known->refusal);
    BindEngines();
    scheduler_.Dispatch();
  });
}

void Frontend::OnEngineReach(const std::string& engine, const placement::ExpertKeys& missing) {
  Post([this, engine, missing] {
    EngineSet::Engine* const known = engines_.Find(engine);
    if (!known) return;
    known->missing = missing;
    RefreshSnapshot();
  });
}

void Frontend::OnEngineLeaving(const std::string& engine) {
  Post([this, engine] {
    EngineSet::Engine* const known = engines_.Find(engine);
    if (!known) return;
    known->leaving = true;
    EngineSet::FinishIdle(known);
  });
}

void Frontend::OnEngineEvents(const std::string& engine, std::vector<SequenceEvent> events,
                              std::function<void()> taken) {
  auto shared = std::make_shared<std::vector<SequenceEvent>>(std::move(events));
  const bool posted = Post([this, engine, shared, taken] {
    if (EngineSet::Engine* const known = engines_.Find(engine)) {
      known->last_event = options_.clock->Now();
      known->silent = false;
    }
    for (const SequenceEvent& event : *shared) scheduler_.OnEvent(event);
    taken();
    if (EngineSet::Engine* const known = engines_.Find(engine)) EngineSet::FinishIdle(known);
  });
  if (!posted) taken();  // stopping: the stream is read to its end
}

void Frontend::OnEngineLost(const std::string& engine, const absl::Status& why) {
  Post([this, engine, why] {
    EngineSet::Engine* const known = engines_.Find(engine);
    if (!known) return;
    if (known->finished) {
      LogInfo("engine left", {{"engine", engine}});
    } else if (known->identity) {
      LogWarning("engine lost", {{"engine", engine}, {"why", std::string(why.message())}});
    }
    known->leaving = known->finished = false;
    known->offered.reset();
    known->identity.reset();
    // Another cluster's engine has taken the port: said until the controller names another address.
    const std::string refusal =
        rpc::IsOtherCluster(why) ? absl::StrCat(engine, ": ", why.message()) : "";
    if (!refusal.empty() && refusal != known->refusal) LogError(refusal);
    known->refusal = refusal;
    BindEngines();  // first: whoever hears of the failure must not find the engine still there
    scheduler_.FailAllOn(
        engine, rpc::WithDetails(absl::UnavailableError(absl::StrCat("the connection to ", engine,
                                                                     " was lost: ", why.message())),
                                 {.reason = "ENGINE_LOST",
                                  .metadata = {{"engine", engine}},
                                  .retry_after_ms = 1000,
                                  .fields = {}}));
  });
}

bool Frontend::Post(std::function<void()> task) { return tasks_.TryPush(std::move(task)); }

void Frontend::Run() {
  auto wake = std::chrono::steady_clock::now();
  while (!stopping_) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= wake) {
      Tick();
      wake = now + kTick;
    }
    if (auto task = tasks_.PopFor(std::max<Duration>(wake - now, Duration(0)))) (*task)();
  }
}

void Frontend::ApplyCluster(const placement::ClusterView& view) {
  for (const placement::EngineEndpoint& endpoint : view.engines) {
    if (endpoint.served_name != model_->name() || endpoint.address.empty()) continue;
    EngineSet::Engine* engine = engines_.Find(endpoint.name);
    if (engine && engine->address != endpoint.address) {
      engine->offered.reset();
      engine->identity.reset();
      scheduler_.FailAllOn(endpoint.name, absl::UnavailableError(absl::StrCat(
                                              endpoint.name, " has restarted elsewhere")));
      engines_.Remove(endpoint.name);
      engine = nullptr;
    }
    if (!engine) {
      engine = &engines_.Add(endpoint.name, endpoint.address,
                             options_.link_factory(endpoint.name, endpoint.address, this));
      engine->link->Tick();
    }
    engine->load = {.running = endpoint.load.running,
                    .waiting = endpoint.load.waiting,
                    .kv_used_ratio = endpoint.load.kv_used_ratio,
                    .draining = endpoint.state == placement::MemberState::kDraining};
    engine->own_at_report = engine->own_sequences;
  }
  // An engine that the controller does not name (it may just have restarted) is kept as long as its
  // own stream lives.
  std::vector<std::string> gone;
  for (const auto& [name, engine] : engines_.all()) {
    const bool named = std::any_of(view.engines.begin(), view.engines.end(),
                                   [&, &name = name](const auto& e) { return e.name == name; });
    if (!named && !engine.identity && engine.own_sequences == 0) gone.push_back(name);
  }
  for (const std::string& name : gone) engines_.Remove(name);
  scheduler_.Dispatch();
  RefreshSnapshot();
}

void Frontend::BindEngines() {
  const EngineSet::Binding binding =
      engines_.Bind(options_.clock->Now(), options_.fingerprint_hold);
  if (binding.changed) LogInfo("fingerprint bound", {{"fingerprint", engines_.fingerprint()}});
  for (const std::string& name : binding.refused) LogError(engines_.Find(name)->refusal);
  options_.registry->GetGauge("conclave_engines_used").Set(engines_.num_connected());
  options_.registry->GetGauge("conclave_engines_refused").Set(engines_.num_refused());
  RefreshSnapshot();
}

void Frontend::TellCache() {
  const ResponseCache::Counts counts = cache_->counts();
  options_.registry->GetGauge("conclave_cache_bytes").Set(static_cast<double>(counts.bytes));
  options_.registry->GetGauge("conclave_cache_answers").Set(static_cast<double>(counts.entries));
  const auto count = [this](const char* reason, int64_t more) {
    options_.registry->GetCounter("conclave_cache_dropped_total", {{"reason", reason}})
        .Increment(static_cast<double>(more));
  };
  count("evicted", counts.evicted - cache_told_.evicted);
  count("rejected", counts.rejected - cache_told_.rejected);
  count("expired", counts.expired - cache_told_.expired);
  cache_told_ = counts;
}

void Frontend::Tick() {
  const TimePoint now = options_.clock->Now();
  for (auto& [name, engine] : engines_.all()) {
    EngineSet::FinishIdle(&engine);
    engine.link->Tick();
    engine.silent = now - engine.last_event > options_.step_age_limit;
  }
  engines_.DestroyClosed();
  prompts_.Sweep();
  scheduler_.Tick();
  if (cache_) TellCache();
  options_.registry->GetGauge("conclave_requests_running").Set(scheduler_.num_running());
  options_.registry->GetGauge("conclave_requests_inflight").Set(num_running());
  BindEngines();
}

}  // namespace conclave::gateway
