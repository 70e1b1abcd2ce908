#include "services/gateway/request_scheduler.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shared/base/log.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

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

int64_t Milliseconds(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

// When to come again, to a client that is refused because others wait.
int64_t RetryAfterMs(std::optional<Duration> wait) {
  return std::max<int64_t>(1000, wait ? Milliseconds(*wait) : 0);
}

}  // namespace

void RecordRequest(metrics::Registry& registry, const std::string& api,
                   const absl::Status& status) {
  registry.GetCounter("conclave_requests_total", {{"api", api}, {"code", CodeName(status)}})
      .Increment();
  if (!status.ok()) {
    registry.GetCounter("conclave_errors_total", {{"code", CodeName(status)}}).Increment();
  }
}

RequestScheduler::RequestScheduler(RequestSchedulerOptions options, EngineSet* engines,
                                   const TextModel* model, const ResumeTokenSigner* signer,
                                   metrics::Registry* registry, const Clock* clock)
    : options_(options),
      engines_(*engines),
      model_(*model),
      signer_(*signer),
      registry_(*registry),
      clock_(*clock),
      queue_(options.queue) {}

RequestScheduler::~RequestScheduler() {
  for (auto& [key, entry] : entries_) {
    entry.request->Fail(absl::UnavailableError("the gateway has stopped"));
  }
}

void RequestScheduler::Submit(uint64_t key, Generation asked, Admission admission,
                              std::shared_ptr<GenerationSink> sink) {
  Entry entry;
  entry.admission = std::move(admission);
  entry.request =
      std::make_unique<RunningRequest>(std::move(asked), model_.tokenizer(), std::move(sink));
  const Generation& generation = entry.request->generation();
  if (keys_by_id_.count(generation.request_id)) {
    Refuse(entry, absl::AlreadyExistsError(absl::StrCat("request id \"", generation.request_id,
                                                        "\" is in use by a running request")));
    return;
  }
  const std::optional<EngineIdentity> identity = engines_.CommonIdentity();
  if (!identity) {
    Refuse(entry, NoEngine());
    return;
  }
  keys_by_id_[generation.request_id] = key;
  const Started started{
      .request_id = generation.request_id,
      .seed = generation.seed,
      .resume_token = signer_.Sign({.tenant = generation.tenant.name,
                                    .definition_hash = DefinitionHash(generation),
                                    .seed = generation.seed,
                                    .fingerprint = identity->fingerprint,
                                    .text_version = model_.tokenizer()->version(),
                                    .expires_unix_s = UnixSeconds() + kResumeTokenLifetimeSeconds}),
      .model = generation.model,
      .system_fingerprint = identity->system_fingerprint,
      .prompt_ids = generation.prompt_ids};
  queue_.Push({.key = key,
               .qos = generation.qos,
               .tenant = generation.tenant.name,
               .weight = generation.tenant.weight,
               .cost = CostOf(generation),
               .arrival = generation.arrival,
               .deadline = generation.deadline});
  Entry& waiting = entries_.emplace(key, std::move(entry)).first->second;
  Dispatch();
  if (waiting.engine.empty()) {
    const absl::Status refusal = MayWait(key, waiting.request->generation());
    if (!refusal.ok()) {
      Apply(key, waiting.request->Fail(refusal), refusal);
      return;
    }
  }
  waiting.request->Start(started);
  registry_.GetCounter("conclave_prompt_tokens_total")
      .Increment(static_cast<double>(started.prompt_ids.size()));
}

void RequestScheduler::Refuse(Entry& entry, const absl::Status& status) {
  entry.request->Fail(status);
  RecordRequest(registry_, entry.request->generation().api, status);
}

// OK, or why the queue is no place for a request that was just put into it.
absl::Status RequestScheduler::MayWait(uint64_t key, const Generation& generation) {
  const std::optional<Duration> wait = estimate_.UntilFirstToken(
      std::max(0.0, queue_.CostUpTo(generation.qos) - CostOf(generation)));
  if (generation.deadline && wait && clock_.Now() + *wait > *generation.deadline) {
    return rpc::WithDetails(
        absl::ResourceExhaustedError(absl::StrCat(
            "the deadline cannot be met: requests wait, and a first token would take about ",
            Milliseconds(*wait), " ms; give it more time, or try again later")),
        {.reason = "DEADLINE_OUT_OF_REACH",
         .metadata = {},
         .retry_after_ms = RetryAfterMs(wait),
         .fields = {}});
  }
  if (queue_.size() <= options_.max_waiting) return absl::OkStatus();
  const absl::Status full = rpc::WithDetails(
      absl::ResourceExhaustedError(absl::StrCat(
          num_running_, " requests run and ", options_.max_waiting,
          " wait (settings gateway.max_running and gateway.max_waiting); try again later")),
      {.reason = "TOO_MANY_REQUESTS",
       .metadata = {},
       .retry_after_ms = RetryAfterMs(wait),
       .fields = {}});
  const uint64_t victim = queue_.Evict()->key;
  if (victim == key) return full;
  Apply(victim, entries_.at(victim).request->Fail(full), full);
  return absl::OkStatus();
}

void RequestScheduler::Abandon(uint64_t key) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return;
  const Entry& entry = found->second;
  if (EngineSet::Engine* engine = engines_.Find(entry.engine)) {
    for (int32_t i = 0; i < entry.request->generation().num_choices; ++i) {
      engine->link->Cancel(entry.first_sequence + static_cast<uint64_t>(i));
    }
  }
  Erase(key, absl::CancelledError("the client has gone"));
}

absl::Status RequestScheduler::Cancel(const std::string& request_id) {
  const auto found = keys_by_id_.find(request_id);
  if (found == keys_by_id_.end()) {
    return absl::NotFoundError(absl::StrCat("no running request has the id \"", request_id, "\""));
  }
  const uint64_t key = found->second;
  RunningRequest& request = *entries_.at(key).request;
  const absl::Status why = absl::CancelledError("cancelled by id");
  RunningRequest::Actions actions = request.Cancel(clock_.Now());
  // Of a request that waits no engine has anything to account for.
  if (entries_.at(key).engine.empty()) actions = request.StopWaitingForUsage();
  Apply(key, actions, why);
  return absl::OkStatus();
}

void RequestScheduler::Dispatch() {
  if (stopped_) return;
  const TimePoint now = clock_.Now();
  EngineSet::Engine* engine = nullptr;
  const auto may_start = [&](const WaitingRequest& waiting) {
    const Generation& generation = entries_.at(waiting.key).request->generation();
    const double room = options_.max_running * options_.class_shares[IndexOf(waiting.qos)];
    if (num_running_ > 0 && num_running_ + 1 > room) return false;
    const auto running = running_by_tenant_.find(waiting.tenant);
    const int32_t most = generation.tenant.max_running;
    if (most > 0 && running != running_by_tenant_.end() && running->second >= most) return false;
    engine = engines_.LeastLoaded(DemandOf(generation));
    return engine != nullptr;
  };
  while (std::optional<WaitingRequest> next = queue_.Pop(now, may_start)) {
    Entry& entry = entries_.at(next->key);
    registry_
        .GetHistogram("conclave_gateway_queue_wait_seconds", {{"class", QosClassName(next->qos)}})
        .Observe(Seconds(now - next->arrival));
    entry.place = std::move(next);
    Start(entry.place->key, entry, *engine);
  }
}

void RequestScheduler::Start(uint64_t key, Entry& entry, EngineSet::Engine& engine) {
  const Generation& generation = entry.request->generation();
  const EngineSet::Demand demand = DemandOf(generation);
  entry.engine = engine.name;
  entry.first_sequence = next_sequence_;
  entry.kv_tokens = demand.kv_tokens;
  entry.started = clock_.Now();
  next_sequence_ += static_cast<uint64_t>(generation.num_choices);
  engine.own_sequences += generation.num_choices;
  engine.own_tokens += demand.kv_tokens;
  ++num_running_;
  ++running_by_tenant_[generation.tenant.name];
  SequenceStart start{.sequence_id = 0,
                      .prompt_ids = generation.prompt_ids,
                      .generated_ids = {},
                      .fingerprint = engine.identity->fingerprint,
                      .seed = generation.seed,
                      .choice_index = 0,
                      .sampling = generation.sampling,
                      .max_tokens = generation.max_tokens,
                      .min_tokens = generation.min_tokens,
                      .stop_ids = generation.stop_ids,
                      .qos = generation.qos,
                      .tenant_weight = generation.tenant.weight,
                      .remaining_ms = 0,
                      .traceparent = generation.traceparent,
                      .request_id = generation.request_id};
  if (generation.deadline) {
    start.remaining_ms = std::max<int64_t>(1, Milliseconds(*generation.deadline - clock_.Now()));
  }
  for (int32_t i = 0; i < generation.num_choices; ++i) {
    start.sequence_id = entry.first_sequence + static_cast<uint64_t>(i);
    start.choice_index = i;
    keys_by_sequence_[start.sequence_id] = key;
    engine.link->Start(start);
  }
}

void RequestScheduler::OnEvent(const SequenceEvent& event) {
  const auto found = keys_by_sequence_.find(event.sequence_id);
  if (found == keys_by_sequence_.end()) return;  // of a request that is over
  const uint64_t key = found->second;
  Entry& entry = entries_.at(key);
  RunningRequest& request = *entry.request;
  const auto choice = static_cast<int32_t>(event.sequence_id - entry.first_sequence);
  const TimePoint now = clock_.Now();
  if (const auto* tokens = std::get_if<SequenceTokens>(&event.what)) {
    const bool first = !request.first_token_time().has_value();
    const int64_t before = request.completion_tokens();
    const RunningRequest::Actions actions = request.OnTokens(choice, *tokens, now);
    const int64_t sent = request.completion_tokens() - before;
    if (sent > 0) {
      registry_.GetCounter("conclave_generated_tokens_total").Increment(static_cast<double>(sent));
      estimate_.Computed(static_cast<double>(sent));
      if (first) {
        estimate_.FirstToken(now - entry.started);
        estimate_.Computed(static_cast<double>(request.generation().prompt_ids.size()));
        registry_.GetHistogram("conclave_time_to_first_token_seconds")
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

void RequestScheduler::FailAllOn(const std::string& engine, const absl::Status& status) {
  std::vector<uint64_t> keys;
  for (const auto& [key, entry] : entries_) {
    if (entry.engine == engine) keys.push_back(key);
  }
  for (const uint64_t key : keys) Apply(key, entries_.at(key).request->Fail(status), status);
}

int64_t RequestScheduler::FailAll(const absl::Status& status) {
  stopped_ = true;
  const auto count = static_cast<int64_t>(entries_.size());
  while (!entries_.empty()) {
    const uint64_t key = entries_.begin()->first;
    Apply(key, entries_.begin()->second.request->Fail(status), status);
  }
  return count;
}

void RequestScheduler::Tick() {
  const TimePoint now = clock_.Now();
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
  if (engines_.num_connected() > 0) {
    without_engine_since_.reset();
  } else if (!without_engine_since_) {
    without_engine_since_ = now;
  } else if (now - *without_engine_since_ >= options_.engine_wait) {
    for (const auto& [key, entry] : entries_) {
      if (entry.engine.empty() && !entry.request->finish_time()) late.emplace_back(key, NoEngine());
    }
  }
  for (const auto& [key, status] : late) {
    const auto found = entries_.find(key);  // some are named twice
    if (found != entries_.end()) Apply(key, found->second.request->Fail(status), status);
  }
  for (const uint64_t key : without_usage) {
    Apply(key, entries_.at(key).request->StopWaitingForUsage(), absl::OkStatus());
  }
  estimate_.Tick(now, queue_.size() > 0);
  queue_.Age(now);
  Dispatch();
  for (const QosClass qos : kQosClasses) {
    registry_.GetGauge("conclave_gateway_queue_requests", {{"class", QosClassName(qos)}})
        .Set(static_cast<double>(queue_.size(qos)));
    registry_.GetGauge("conclave_gateway_queue_oldest_seconds", {{"class", QosClassName(qos)}})
        .Set(Seconds(queue_.OldestWait(qos, now)));
  }
}

void RequestScheduler::Apply(uint64_t key, const RunningRequest::Actions& actions,
                             const absl::Status& status) {
  Entry& entry = entries_.at(key);
  if (EngineSet::Engine* const engine = engines_.Find(entry.engine)) {
    for (const int32_t choice : actions.cancel_choices) {
      engine->link->Cancel(entry.first_sequence + static_cast<uint64_t>(choice));
    }
  }
  if (actions.over) Erase(key, status);
}

void RequestScheduler::Erase(uint64_t key, const absl::Status& status) {
  const auto found = entries_.find(key);
  const Entry entry = std::move(found->second);
  entries_.erase(found);
  keys_by_id_.erase(entry.request->generation().request_id);
  if (entry.engine.empty()) {
    queue_.Remove(key);
  } else {
    LeaveEngine(entry);
  }
  RecordEnd(entry, status);
  if (!entry.engine.empty()) Dispatch();
}

void RequestScheduler::LeaveEngine(const Entry& entry) {
  const Generation& generation = entry.request->generation();
  for (int32_t i = 0; i < generation.num_choices; ++i) {
    keys_by_sequence_.erase(entry.first_sequence + static_cast<uint64_t>(i));
  }
  if (EngineSet::Engine* const engine = engines_.Find(entry.engine)) {
    engine->own_sequences -= generation.num_choices;
    engine->own_tokens -= entry.kv_tokens;
  }
  --num_running_;
  const auto running = running_by_tenant_.find(generation.tenant.name);
  if (--running->second == 0) running_by_tenant_.erase(running);
  const auto answered = static_cast<double>(entry.request->completion_tokens());
  const double prompt =
      entry.request->first_token_time() ? static_cast<double>(generation.prompt_ids.size()) : 0;
  queue_.Settle(*entry.place, prompt + answered - entry.place->cost);
  if (entry.request->finish_time()) estimate_.Answered(answered / generation.num_choices);
}

void RequestScheduler::RecordEnd(const Entry& entry, const absl::Status& status) {
  const RunningRequest& request = *entry.request;
  const Generation& generation = request.generation();
  RecordRequest(registry_, generation.api, status);
  const Duration took = clock_.Now() - generation.arrival;
  registry_.GetHistogram("conclave_request_seconds").Observe(Seconds(took));
  for (const double seconds : request.SecondsPerToken()) {
    registry_.GetHistogram("conclave_time_per_output_token_seconds").Observe(seconds);
  }
  for (const FinishReason reason : request.FinishReasons()) {
    registry_.GetCounter("conclave_finished_choices_total", {{"reason", FinishReasonName(reason)}})
        .Increment();
  }
  LogInfo("request ended", {{"request_id", generation.request_id},
                            {"api", generation.api},
                            {"code", CodeName(status)},
                            {"tenant", generation.tenant.name},
                            {"class", QosClassName(generation.qos)},
                            {"engine", entry.engine},
                            {"prompt_tokens", generation.prompt_ids.size()},
                            {"completion_tokens", request.completion_tokens()},
                            {"ms", Milliseconds(took)},
                            {"traceparent", generation.traceparent}});
}

EngineSet::Demand RequestScheduler::DemandOf(const Generation& generation) const {
  return {.sequences = generation.num_choices,
          .kv_tokens = generation.num_choices * static_cast<int64_t>(generation.prompt_ids.size()) +
                       ExpectedAnswer(generation),
          .share = options_.class_shares[IndexOf(generation.qos)]};
}

// Of all choices together.
int64_t RequestScheduler::ExpectedAnswer(const Generation& generation) const {
  return generation.num_choices *
         static_cast<int64_t>(estimate_.ExpectedTokens(static_cast<double>(generation.max_tokens)));
}

}  // namespace conclave::gateway
