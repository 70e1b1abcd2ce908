#include "services/gateway/request_scheduler.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/gateway/queue_refusals.h"

namespace conclave::gateway {

namespace {

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

int64_t Milliseconds(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

// Who share an answer are all served by one thread; the next equal request starts a run of its own.
constexpr size_t kMostListeners = 64;

}  // namespace

RequestScheduler::RequestScheduler(RequestSchedulerOptions options, EngineSet* engines,
                                   const TextModel* model, const ResumeTokenSigner* signer,
                                   ResponseCache* cache, metrics::Registry* registry,
                                   const Clock* clock)
    : options_(options),
      engines_(*engines),
      model_(*model),
      signer_(*signer),
      cache_(cache),
      registry_(*registry),
      metrics_(registry),
      clock_(*clock),
      queue_(options.queue),
      running_(options.max_running, options.class_shares) {}

RequestScheduler::~RequestScheduler() {
  for (auto& [key, run] : runs_) {
    run.request->Fail(absl::UnavailableError("the gateway has stopped"));
  }
}

void RequestScheduler::Submit(uint64_t key, Generation generation, Admission admission,
                              std::shared_ptr<GenerationSink> sink) {
  const auto refuse = [&](const absl::Status& status) {
    CountRequest(registry_, generation.api, generation.tenant.name, status);
    sink->OnFailed(status);
  };
  if (listeners_by_id_.count({generation.tenant.name, generation.request_id})) {
    refuse(absl::AlreadyExistsError(
        absl::StrCat("request id \"", generation.request_id, "\" is in use by a running request")));
    return;
  }
  const std::optional<EngineIdentity> identity = engines_.CommonIdentity();
  // What was prepared for other engines is checked, and named in the cache, for those alone.
  if (!identity || identity->fingerprint != generation.fingerprint) {
    refuse(NoEngine());
    return;
  }
  if (const std::optional<uint64_t> run = RunToJoin(generation)) {
    Attach(key, *run, generation,
           {.system_fingerprint = identity->system_fingerprint,
            .cache = CacheStatus::kJoined,
            .admission = std::move(admission),
            .sink = std::move(sink)});
    return;
  }
  if (const absl::Status late = CheckDeadline(generation, estimate_, clock_.Now()); !late.ok()) {
    refuse(late);
    return;
  }
  const bool record = cache_ && generation.cache_key;
  SharedAnswer::Keep keep;
  if (record) {
    keep = [this, at = *generation.cache_key](std::shared_ptr<const RecordedGeneration> answer) {
      cache_->Put(at, std::move(answer));
    };
  }
  Run fresh;
  fresh.answer = std::make_shared<SharedAnswer>(generation.num_choices, std::move(keep));
  fresh.request = std::make_unique<RunningRequest>(generation, model_.tokenizer(), fresh.answer);
  fresh.prefix_hashes = PrefixHashes(generation.tenant.cache_scope(), generation.prompt_ids);
  queue_.Push({.key = key,
               .qos = generation.qos,
               .tenant = generation.tenant.name,
               .weight = generation.tenant.weight,
               .cost = CostOf(generation),
               .arrival = generation.arrival,
               .deadline = generation.deadline});
  Run& run = runs_.emplace(key, std::move(fresh)).first->second;
  Dispatch();
  if (run.engine.empty()) {
    const absl::Status refusal = MayWait(key, generation);
    if (!refusal.ok()) {
      EndRun(key, refusal);
      refuse(refusal);
      return;
    }
  }
  if (record) runs_by_cache_key_[*generation.cache_key] = key;
  Attach(key, key, generation,
         {.system_fingerprint = identity->system_fingerprint,
          .cache = record ? CacheStatus::kMiss : CacheStatus::kNone,
          .admission = std::move(admission),
          .sink = std::move(sink)});
}

std::optional<uint64_t> RequestScheduler::RunToJoin(const Generation& generation) const {
  if (!cache_ || !generation.cache_key || generation.cache == CacheMode::kRefresh) {
    return std::nullopt;
  }
  const auto found = runs_by_cache_key_.find(*generation.cache_key);
  if (found == runs_by_cache_key_.end()) return std::nullopt;
  const Run& run = runs_.at(found->second);
  if (!run.answer->recording() || run.listeners.size() >= kMostListeners) return std::nullopt;
  const RunningRequest& request = *run.request;
  const Generation& running = request.generation();
  const bool as_urgent = running.qos <= generation.qos;
  const bool as_fast = running.sampling.pace == generation.sampling.pace;
  const bool lasts =
      !running.deadline || (generation.deadline && *running.deadline >= *generation.deadline);
  const std::vector<FinishReason> ends = request.FinishReasons();
  const bool whole = std::find(ends.begin(), ends.end(), FinishReason::kCancelled) == ends.end();
  if (!whole || !as_urgent || !as_fast || !lasts) return std::nullopt;
  return found->second;
}

void RequestScheduler::Attach(uint64_t key, uint64_t run_key, const Generation& generation,
                              Newcomer newcomer) {
  Run& run = runs_.at(run_key);
  // What the run draws is what all its listeners get; a greedy one draws nothing.
  const bool draws = generation.sampling.temperature != 0;
  const Started started = StartOf(generation,
                                  {.seed = draws ? run.request->generation().seed : generation.seed,
                                   .system_fingerprint = newcomer.system_fingerprint,
                                   .cache = newcomer.cache},
                                  model_, signer_);
  run.listeners.push_back(key);
  listeners_by_id_[{generation.tenant.name, generation.request_id}] = key;
  listeners_.emplace(key, Listener{.run = run_key,
                                   .record = RequestRecord::Of(generation, newcomer.cache),
                                   .deadline = generation.deadline,
                                   .admission = std::move(newcomer.admission)});
  if (run_key == key) run.answer->OnStarted(started);
  run.answer->Attach(key, std::move(newcomer.sink), started);
  metrics_.prompt_tokens.Increment(static_cast<double>(started.prompt_ids.size()));
}

absl::Status RequestScheduler::MayWait(uint64_t key, const Generation& generation) {
  const std::optional<Duration> wait = estimate_.UntilFirstToken(queue_.CostAhead(key));
  const Duration answer = estimate_.AfterFirstToken(static_cast<double>(generation.max_tokens));
  if (generation.deadline && wait && clock_.Now() + *wait + answer > *generation.deadline) {
    return DeadlineOutOfReach(*wait, answer);
  }
  if (queue_.size() <= options_.max_waiting) return absl::OkStatus();
  const absl::Status full = QueueFull(running_.taken(), options_.max_waiting, wait);
  const uint64_t victim = queue_.Evict()->key;
  if (victim == key) return full;
  Apply(victim, runs_.at(victim).request->Fail(full), full);
  return absl::OkStatus();
}

void RequestScheduler::Abandon(uint64_t key) {
  const auto found = listeners_.find(key);
  if (found == listeners_.end()) return;
  runs_.at(found->second.run).answer->Detach(key);
  EndListener(key, absl::CancelledError("the client has gone"));
}

absl::Status RequestScheduler::Cancel(const std::string& tenant, const std::string& request_id) {
  const auto found = listeners_by_id_.find({tenant, request_id});
  if (found == listeners_by_id_.end()) {
    return absl::NotFoundError(absl::StrCat("no running request has the id \"", request_id, "\""));
  }
  const uint64_t key = found->second;
  const uint64_t run_key = listeners_.at(key).run;
  Run& run = runs_.at(run_key);
  const absl::Status why = absl::CancelledError("cancelled by id");
  if (run.listeners.size() > 1) {
    run.answer->Cancel(key);
    EndListener(key, why);
    return absl::OkStatus();
  }
  RunningRequest::Actions actions = run.request->Cancel(clock_.Now());
  // Of a run that waits no engine has anything to account for.
  if (run.engine.empty()) actions = run.request->StopWaitingForUsage();
  Apply(run_key, actions, why);
  return absl::OkStatus();
}

void RequestScheduler::Dispatch() {
  if (stopped_) return;
  const TimePoint now = clock_.Now();
  while (!running_.full()) {
    Search search;
    search.room_of =
        queue_.MostUrgent([this](const WaitingRequest& waiting) { return TenantMayRun(waiting); });
    std::optional<WaitingRequest> next = queue_.Pop(
        now, [&](const WaitingRequest& waiting) { return LookForEngine(waiting, &search); });
    if (!next) return;
    Run& run = runs_.at(next->key);
    if (CannotFinish(run, now)) {
      queue_.Settle(*next, -next->cost);
      const absl::Status late = absl::DeadlineExceededError(
          "the request has waited until too little of its time is left");
      Apply(next->key, run.request->Fail(late), late);
      continue;
    }
    metrics_.Waited(next->qos, now - next->arrival);
    run.place = std::move(next);
    Start(run.place->key, run, *search.engine);
  }
}

bool RequestScheduler::TenantMayRun(const WaitingRequest& waiting) const {
  const int32_t most = runs_.at(waiting.key).request->generation().tenant.max_running;
  return most <= 0 || running_.of(waiting.tenant) < most;
}

// All by the class that a request has come to count as: one that has moved up must not stop those
// there.
MayStart RequestScheduler::LookForEngine(const WaitingRequest& waiting, Search* search) {
  const Run& run = runs_.at(waiting.key);
  const QosClass qos = waiting.counts_as;
  const QosClass room_of = std::min(qos, search->room_of);
  if (!TenantMayRun(waiting) || !running_.HasPlace(room_of)) return MayStart::kNo;
  const bool behind = search->set_aside && qos >= search->set_aside_for;
  search->engine = engines_.Choose(DemandOf(run, room_of), behind ? search->set_aside : nullptr);
  if (search->engine) return MayStart::kYes;
  if (waiting.overdue && !search->set_aside) {
    search->set_aside = engines_.Emptiest();
    search->set_aside_for = qos;
  }
  return MayStart::kNoRoom;
}

bool RequestScheduler::CannotFinish(const Run& run, TimePoint now) const {
  const Generation& generation = run.request->generation();
  // Without others that wait nothing is lost by trying; without a listener it is being submitted.
  if (!generation.deadline || queue_.size() == 0 || run.listeners.empty()) return false;
  return now + estimate_.ToAnswer(static_cast<double>(generation.max_tokens)) >
         *generation.deadline;
}

void RequestScheduler::Start(uint64_t key, Run& run, EngineSet::Engine& engine) {
  const Generation& generation = run.request->generation();
  run.engine = engine.name;
  run.first_sequence = next_sequence_;
  run.kv_tokens = DemandOf(run, run.place->counts_as).kv_tokens;
  run.started = clock_.Now();
  next_sequence_ += static_cast<uint64_t>(generation.num_choices);
  engine.own_sequences += generation.num_choices;
  engine.own_tokens += run.kv_tokens;
  if (engine.identity->prefix_cache) {
    engine.prefixes.Remember(run.prefix_hashes, engine.identity->kv_tokens);
  }
  running_.Take(generation.tenant.name);
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
                      .tenant_salt = generation.tenant.cache_scope(),
                      .remaining_ms = 0,
                      .traceparent = generation.traceparent,
                      .request_id = generation.request_id};
  if (generation.deadline) {
    start.remaining_ms = std::max<int64_t>(1, Milliseconds(*generation.deadline - clock_.Now()));
  }
  for (int32_t i = 0; i < generation.num_choices; ++i) {
    start.sequence_id = run.first_sequence + static_cast<uint64_t>(i);
    start.choice_index = i;
    runs_by_sequence_[start.sequence_id] = key;
    engine.link->Start(start);
  }
}

void RequestScheduler::OnEvent(const SequenceEvent& event) {
  const auto found = runs_by_sequence_.find(event.sequence_id);
  if (found == runs_by_sequence_.end()) return;  // of a request that is over
  const uint64_t key = found->second;
  Run& run = runs_.at(key);
  RunningRequest& request = *run.request;
  const auto choice = static_cast<int32_t>(event.sequence_id - run.first_sequence);
  const TimePoint now = clock_.Now();
  if (const auto* tokens = std::get_if<SequenceTokens>(&event.what)) {
    const bool first = !request.first_token_time().has_value();
    const int64_t before = request.completion_tokens();
    const RunningRequest::Actions actions = request.OnTokens(choice, *tokens, now);
    const int64_t sent = request.completion_tokens() - before;
    if (sent > 0) {
      metrics_.generated_tokens.Increment(static_cast<double>(sent));
      estimate_.Computed(static_cast<double>(sent));
      if (first) {
        estimate_.FirstToken(now - run.started);
        estimate_.Computed(static_cast<double>(request.generation().prompt_ids.size()));
        metrics_.FirstToken(request.generation().qos, now - request.generation().arrival);
      }
    }
    Apply(key, actions, absl::OkStatus());
  } else if (const auto* finished = std::get_if<SequenceFinished>(&event.what)) {
    Apply(key, request.OnSequenceFinished(choice, *finished, now), absl::OkStatus());
  } else {
    const auto& failed = std::get<SequenceFailed>(event.what);
    if (failed.refused && PutBack(key, run)) return;
    Apply(key, request.Fail(failed.status), failed.status);
  }
}

void RequestScheduler::Tick() {
  const TimePoint now = clock_.Now();
  std::vector<std::pair<uint64_t, absl::Status>> late;
  for (const auto& [key, listener] : listeners_) {
    const RunningRequest& request = *runs_.at(listener.run).request;
    if (request.finish_time()) continue;
    if (listener.deadline && now >= *listener.deadline) {
      late.emplace_back(key, absl::DeadlineExceededError("the request's time is over"));
    } else if (!request.first_token_time() &&
               now - listener.record.arrival >= options_.first_token_timeout) {
      late.emplace_back(key, absl::DeadlineExceededError(absl::StrCat(
                                 "no token within ", Seconds(options_.first_token_timeout),
                                 " s (setting gateway.first_token_timeout_s)")));
    }
  }
  for (const auto& [key, status] : late) {
    // The end of one makes room for others, and those of which too little time is left end there.
    if (listeners_.contains(key)) FailListener(key, status);
  }
  FailWithoutEngine(now);
  std::vector<uint64_t> without_usage;
  for (const auto& [key, run] : runs_) {
    const std::optional<TimePoint> finish = run.request->finish_time();
    if (finish && now - *finish >= options_.usage_wait) without_usage.push_back(key);
  }
  for (const uint64_t key : without_usage) {
    Apply(key, runs_.at(key).request->StopWaitingForUsage(), absl::OkStatus());
  }
  estimate_.Tick(now, queue_.size() > 0);
  queue_.Age(now);
  Dispatch();
  metrics_.Show(queue_, now);
}

EngineSet::Demand RequestScheduler::DemandOf(const Run& run, QosClass qos) const {
  const Generation& generation = run.request->generation();
  return {.sequences = generation.num_choices,
          .kv_tokens = generation.num_choices * static_cast<int64_t>(generation.prompt_ids.size()) +
                       ExpectedAnswer(generation),
          .share = options_.class_shares[IndexOf(qos)],
          .prefix_hashes = run.prefix_hashes};
}

// Of all choices together.
int64_t RequestScheduler::ExpectedAnswer(const Generation& generation) const {
  return generation.num_choices *
         static_cast<int64_t>(estimate_.ExpectedTokens(static_cast<double>(generation.max_tokens)));
}

}  // namespace conclave::gateway
