#include "services/gateway/frontend.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
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

std::string CodeName(const absl::Status& status) {
  return status.ok() ? "OK" : absl::StatusCodeToString(status.code());
}

absl::Status NoEngine() {
  return rpc::WithDetails(
      absl::UnavailableError("no engine is connected; /readyz says what is missing"),
      {.reason = "NO_ENGINE", .metadata = {}, .retry_after_ms = 1000, .fields = {}});
}

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

Frontend::Frontend(Options options, std::shared_ptr<const TextModel> model)
    : options_(std::move(options)),
      model_(std::move(model)),
      signer_(options_.cluster_secret),
      tasks_(kMaxTasks) {
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
  for (auto& [key, entry] : entries_) {
    entry.request->Fail(absl::UnavailableError("the gateway has stopped"));
  }
}

absl::StatusOr<Admission> Frontend::Admit() {
  if (places_->TryTake(options_.max_running)) {
    return Admission(nullptr, [places = places_](void*) { places->GiveBack(); });
  }
  if (draining_) {
    return rpc::WithDetails(
        absl::UnavailableError("the gateway is shutting down"),
        {.reason = "SHUTTING_DOWN", .metadata = {}, .retry_after_ms = 1000, .fields = {}});
  }
  return rpc::WithDetails(
      absl::ResourceExhaustedError(absl::StrCat(
          "all ", options_.max_running, " places for running requests are taken; try again later")),
      {.reason = "TOO_MANY_REQUESTS", .metadata = {}, .retry_after_ms = 1000, .fields = {}});
}

absl::StatusOr<Generation> Frontend::Prepare(GenerationInput input, const FieldNames& names,
                                             const text::Interrupt* interrupt) const {
  RETURN_IF_ERROR(CheckModelName(input.model, *model_));
  const std::optional<EngineIdentity> engine = identity();
  if (!engine) return NoEngine();
  return Canonicalize(std::move(input), *model_,
                      {.context_tokens = engine->context_tokens, .vocab_size = engine->vocab_size},
                      names, interrupt);
}

uint64_t Frontend::Submit(Admission admission, Generation generation,
                          std::shared_ptr<GenerationSink> sink) {
  const uint64_t key = next_key_.fetch_add(1);
  auto entry = std::make_shared<Entry>();
  entry->admission = std::move(admission);
  entry->request =
      std::make_unique<RunningRequest>(std::move(generation), model_->tokenizer(), sink);
  if (tasks_.size() >= kMaxClientTasks ||
      !Post([this, key, entry] { StartRequest(key, std::move(*entry)); })) {
    const absl::Status why = absl::UnavailableError("the gateway is shutting down or overloaded");
    RecordRequest(entry->request->generation().api, why);
    sink->OnFailed(why);
  }
  return key;
}

void Frontend::Abandon(uint64_t key) {
  Post([this, key] {
    const auto found = entries_.find(key);
    if (found == entries_.end()) return;
    Entry& entry = found->second;
    if (EngineSet::Engine* engine = engines_.Find(entry.engine)) {
      for (int32_t i = 0; i < entry.request->generation().num_choices; ++i) {
        engine->link->Cancel(entry.first_sequence + static_cast<uint64_t>(i));
      }
    }
    Erase(key, absl::CancelledError("the client has gone"));
  });
}

void Frontend::CancelById(std::string request_id, std::function<void(absl::Status)> done) {
  const bool posted = tasks_.size() < kMaxClientTasks && Post([this, request_id, done] {
                        const auto found = keys_by_id_.find(request_id);
                        if (found == keys_by_id_.end()) {
                          done(absl::NotFoundError(
                              absl::StrCat("no running request has the id \"", request_id, "\"")));
                          return;
                        }
                        const uint64_t key = found->second;
                        Apply(key, entries_.at(key).request->Cancel(options_.clock->Now()),
                              absl::CancelledError("cancelled by id"));
                        done(absl::OkStatus());
                      });
  if (!posted) done(absl::UnavailableError("the gateway is shutting down or overloaded"));
}

void Frontend::UpdateCluster(const placement::ClusterView& view) {
  Post([this, view] { ApplyCluster(view); });
}

std::optional<EngineIdentity> Frontend::identity() const {
  MutexLock lock(mutex_);
  return snapshot_.identity;
}

int32_t Frontend::num_engines() const {
  MutexLock lock(mutex_);
  return snapshot_.num_engines;
}

void Frontend::RecordRequest(const std::string& api, const absl::Status& status) {
  options_.registry
      ->GetCounter("conclave_requests_total", {{"api", api}, {"code", CodeName(status)}})
      .Increment();
  if (!status.ok()) {
    options_.registry->GetCounter("conclave_errors_total", {{"code", CodeName(status)}})
        .Increment();
  }
}

void Frontend::OnEngineConnected(const std::string& engine, const EngineIdentity& identity) {
  Post([this, engine, identity] {
    EngineSet::Engine* const known = engines_.Find(engine);
    if (!known) return;
    known->refusal.clear();
    known->offered.reset();
    known->identity.reset();
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
      LogInfo("engine connected",
              {{"engine", engine}, {"fingerprint", identity.system_fingerprint}});
    }
    if (!known->refusal.empty()) LogError(known->refusal);
    BindEngines();
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

void Frontend::OnEngineEvents(const std::string& engine, std::vector<SequenceEvent> events,
                              std::function<void()> taken) {
  auto shared = std::make_shared<std::vector<SequenceEvent>>(std::move(events));
  const bool posted = Post([this, engine, shared, taken] {
    if (EngineSet::Engine* const known = engines_.Find(engine)) {
      known->last_event = options_.clock->Now();
      known->silent = false;
    }
    for (const SequenceEvent& event : *shared) ApplyEvent(event);
    taken();
  });
  if (!posted) taken();  // stopping: the stream is read to its end
}

void Frontend::OnEngineLost(const std::string& engine, const absl::Status& why) {
  Post([this, engine, why] {
    EngineSet::Engine* const known = engines_.Find(engine);
    if (!known) return;
    if (known->identity) {
      LogWarning("engine lost", {{"engine", engine}, {"why", std::string(why.message())}});
    }
    known->offered.reset();
    known->identity.reset();
    // Another cluster's engine has taken the port: said until the controller names another address.
    const std::string refusal =
        rpc::IsOtherCluster(why) ? absl::StrCat(engine, ": ", why.message()) : "";
    if (!refusal.empty() && refusal != known->refusal) LogError(refusal);
    known->refusal = refusal;
    BindEngines();  // first: whoever hears of the failure must not find the engine still there
    FailAllOn(engine,
              rpc::WithDetails(absl::UnavailableError(absl::StrCat("the connection to ", engine,
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

void Frontend::StartRequest(uint64_t key, Entry entry) {
  RunningRequest& request = *entry.request;
  const Generation& generation = request.generation();
  const auto refuse = [&](const absl::Status& status) {
    request.Fail(status);
    RecordRequest(generation.api, status);
  };
  if (keys_by_id_.count(generation.request_id)) {
    refuse(absl::AlreadyExistsError(
        absl::StrCat("request id \"", generation.request_id, "\" is in use by a running request")));
    return;
  }
  EngineSet::Engine* const engine = engines_.LeastLoaded();
  if (!engine) {
    refuse(NoEngine());
    return;
  }
  entry.engine = engine->name;
  entry.first_sequence = next_sequence_;
  next_sequence_ += static_cast<uint64_t>(generation.num_choices);
  engine->own_sequences += generation.num_choices;
  options_.registry->GetCounter("conclave_prompt_tokens_total")
      .Increment(static_cast<double>(generation.prompt_ids.size()));

  request.Start({.request_id = generation.request_id,
                 .seed = generation.seed,
                 .resume_token =
                     signer_.Sign({.tenant = "",
                                   .definition_hash = DefinitionHash(generation),
                                   .seed = generation.seed,
                                   .fingerprint = engine->identity->fingerprint,
                                   .text_version = model_->tokenizer()->version(),
                                   .expires_unix_s = UnixSeconds() + kResumeTokenLifetimeSeconds}),
                 .model = generation.model,
                 .system_fingerprint = engine->identity->system_fingerprint,
                 .prompt_ids = generation.prompt_ids});
  SequenceStart start{.sequence_id = 0,
                      .prompt_ids = generation.prompt_ids,
                      .generated_ids = {},
                      .fingerprint = engine->identity->fingerprint,
                      .seed = generation.seed,
                      .choice_index = 0,
                      .sampling = generation.sampling,
                      .max_tokens = generation.max_tokens,
                      .min_tokens = generation.min_tokens,
                      .stop_ids = generation.stop_ids,
                      .qos = generation.qos,
                      .remaining_ms = 0,
                      .traceparent = generation.traceparent,
                      .request_id = generation.request_id};
  if (generation.deadline) {
    const Duration left = *generation.deadline - options_.clock->Now();
    start.remaining_ms =
        std::max<int64_t>(1, std::chrono::duration_cast<std::chrono::milliseconds>(left).count());
  }
  const uint64_t first = entry.first_sequence;
  const int32_t num_choices = generation.num_choices;
  keys_by_id_[generation.request_id] = key;
  entries_.emplace(key, std::move(entry));
  for (int32_t i = 0; i < num_choices; ++i) {
    start.sequence_id = first + static_cast<uint64_t>(i);
    start.choice_index = i;
    keys_by_sequence_[start.sequence_id] = key;
    engine->link->Start(start);
  }
}

void Frontend::ApplyEvent(const SequenceEvent& event) {
  const auto found = keys_by_sequence_.find(event.sequence_id);
  if (found == keys_by_sequence_.end()) return;  // of a request that is over
  const uint64_t key = found->second;
  Entry& entry = entries_.at(key);
  RunningRequest& request = *entry.request;
  const auto choice = static_cast<int32_t>(event.sequence_id - entry.first_sequence);
  const TimePoint now = options_.clock->Now();
  if (const auto* tokens = std::get_if<SequenceTokens>(&event.what)) {
    const bool first = !request.first_token_time().has_value();
    const int64_t before = request.completion_tokens();
    const RunningRequest::Actions actions = request.OnTokens(choice, *tokens, now);
    const int64_t sent = request.completion_tokens() - before;
    if (sent > 0) {
      options_.registry->GetCounter("conclave_generated_tokens_total")
          .Increment(static_cast<double>(sent));
      if (first) {
        options_.registry->GetHistogram("conclave_time_to_first_token_seconds")
            .Observe(Seconds(now - request.generation().arrival));
      }
    }
    Apply(key, actions, absl::OkStatus());
  } else if (const auto* finished = std::get_if<SequenceFinished>(&event.what)) {
    Apply(key, request.OnSequenceFinished(choice, *finished, now), absl::OkStatus());
  } else {
    const absl::Status& status = std::get<SequenceFailed>(event.what).status;
    Apply(key, request.Fail(status), status);
  }
}

void Frontend::Apply(uint64_t key, const RunningRequest::Actions& actions,
                     const absl::Status& status) {
  Entry& entry = entries_.at(key);
  if (EngineSet::Engine* const engine = engines_.Find(entry.engine)) {
    for (const int32_t choice : actions.cancel_choices) {
      engine->link->Cancel(entry.first_sequence + static_cast<uint64_t>(choice));
    }
  }
  if (actions.over) Erase(key, status);
}

void Frontend::Erase(uint64_t key, const absl::Status& status) {
  const auto found = entries_.find(key);
  Entry entry = std::move(found->second);
  entries_.erase(found);
  const Generation& generation = entry.request->generation();
  keys_by_id_.erase(generation.request_id);
  for (int32_t i = 0; i < generation.num_choices; ++i) {
    keys_by_sequence_.erase(entry.first_sequence + static_cast<uint64_t>(i));
  }
  if (EngineSet::Engine* const engine = engines_.Find(entry.engine)) {
    engine->own_sequences -= generation.num_choices;
  }
  RecordRequest(generation.api, status);
  const Duration took = options_.clock->Now() - generation.arrival;
  options_.registry->GetHistogram("conclave_request_seconds").Observe(Seconds(took));
  for (const double seconds : entry.request->SecondsPerToken()) {
    options_.registry->GetHistogram("conclave_time_per_output_token_seconds").Observe(seconds);
  }
  for (const FinishReason reason : entry.request->FinishReasons()) {
    options_.registry
        ->GetCounter("conclave_finished_choices_total", {{"reason", FinishReasonName(reason)}})
        .Increment();
  }
  LogInfo("request ended",
          {{"request_id", generation.request_id},
           {"api", generation.api},
           {"code", CodeName(status)},
           {"engine", entry.engine},
           {"prompt_tokens", generation.prompt_ids.size()},
           {"completion_tokens", entry.request->completion_tokens()},
           {"ms", std::chrono::duration_cast<std::chrono::milliseconds>(took).count()},
           {"traceparent", generation.traceparent}});
}

void Frontend::FailAllOn(const std::string& engine, const absl::Status& status) {
  std::vector<uint64_t> keys;
  for (const auto& [key, entry] : entries_) {
    if (entry.engine == engine) keys.push_back(key);
  }
  for (const uint64_t key : keys) Apply(key, entries_.at(key).request->Fail(status), status);
}

void Frontend::ApplyCluster(const placement::ClusterView& view) {
  for (const placement::EngineEndpoint& endpoint : view.engines) {
    if (endpoint.served_name != model_->name() || endpoint.address.empty()) continue;
    EngineSet::Engine* engine = engines_.Find(endpoint.name);
    if (engine && engine->address != endpoint.address) {
      FailAllOn(endpoint.name,
                absl::UnavailableError(absl::StrCat(endpoint.name, " has restarted elsewhere")));
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

void Frontend::Tick() {
  const TimePoint now = options_.clock->Now();
  for (auto& [name, engine] : engines_.all()) {
    engine.link->Tick();
    engine.silent = now - engine.last_event > options_.step_age_limit;
  }
  engines_.DestroyClosed();
  prompts_.Sweep();
  std::vector<std::pair<uint64_t, absl::Status>> late;
  std::vector<uint64_t> without_usage;
  for (const auto& [key, entry] : entries_) {
    const RunningRequest& request = *entry.request;
    if (request.finish_time()) {
      if (now - *request.finish_time() >= options_.usage_wait) without_usage.push_back(key);
    } else if (request.generation().deadline && now >= *request.generation().deadline) {
      late.emplace_back(key, absl::DeadlineExceededError("the request's time is over"));
    } else if (!request.first_token_time() &&
               now - request.generation().arrival >= options_.first_token_timeout) {
      late.emplace_back(key, absl::DeadlineExceededError(absl::StrCat(
                                 "no token within ", Seconds(options_.first_token_timeout),
                                 " s (setting gateway.first_token_timeout_s)")));
    }
  }
  for (const auto& [key, status] : late) Apply(key, entries_.at(key).request->Fail(status), status);
  for (const uint64_t key : without_usage) {
    Apply(key, entries_.at(key).request->StopWaitingForUsage(), absl::OkStatus());
  }
  options_.registry->GetGauge("conclave_requests_running").Set(static_cast<double>(num_running()));
  BindEngines();
}

}  // namespace conclave::gateway
