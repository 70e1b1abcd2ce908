// How a RequestScheduler's runs end, and the requests that listen to them.
#include <utility>
#include <vector>

#include "services/gateway/request_scheduler.h"

namespace conclave::gateway {

void RequestScheduler::FailAllOn(const std::string& engine, const absl::Status& status) {
  std::vector<uint64_t> keys;
  for (const auto& [key, run] : runs_) {
    if (run.engine == engine) keys.push_back(key);
  }
  for (const uint64_t key : keys) Apply(key, runs_.at(key).request->Fail(status), status);
}

void RequestScheduler::FailAll(const absl::Status& status) {
  stopped_ = true;
  while (!runs_.empty()) {
    const uint64_t key = runs_.begin()->first;
    Apply(key, runs_.begin()->second.request->Fail(status), status);
  }
}

void RequestScheduler::FailWithoutEngine(TimePoint now) {
  if (engines_.num_connected() > 0) {
    without_engine_since_.reset();
    return;
  }
  if (!without_engine_since_) without_engine_since_ = now;
  if (now - *without_engine_since_ < options_.engine_wait) return;
  std::vector<uint64_t> waiting;
  for (const auto& [key, run] : runs_) {
    if (run.engine.empty()) waiting.push_back(key);
  }
  for (const uint64_t key : waiting)
    Apply(key, runs_.at(key).request->Fail(NoEngine()), NoEngine());
}

void RequestScheduler::Apply(uint64_t run_key, const RunningRequest::Actions& actions,
                             const absl::Status& status) {
  const Run& run = runs_.at(run_key);
  if (EngineSet::Engine* const engine = engines_.Find(run.engine)) {
    for (const int32_t choice : actions.cancel_choices) {
      engine->link->Cancel(run.first_sequence + static_cast<uint64_t>(choice));
    }
  }
  if (actions.over) EndRun(run_key, status);
}

void RequestScheduler::EndRun(uint64_t run_key, const absl::Status& status) {
  const auto found = runs_.find(run_key);
  const Run run = std::move(found->second);
  runs_.erase(found);
  const Generation& generation = run.request->generation();
  if (generation.cache_key) {
    const auto kept = runs_by_cache_key_.find(*generation.cache_key);
    if (kept != runs_by_cache_key_.end() && kept->second == run_key) runs_by_cache_key_.erase(kept);
  }
  for (const uint64_t key : run.listeners) TakeListener(key, run, status);
  if (run.engine.empty()) {
    queue_.Remove(run_key);
    return;
  }
  LeaveEngine(run);
  metrics_.Ended(*run.request);
  Dispatch();
}

void RequestScheduler::LeaveEngine(const Run& run) {
  const Generation& generation = run.request->generation();
  for (int32_t i = 0; i < generation.num_choices; ++i) {
    runs_by_sequence_.erase(run.first_sequence + static_cast<uint64_t>(i));
  }
  if (EngineSet::Engine* const engine = engines_.Find(run.engine)) {
    engine->own_sequences -= generation.num_choices;
    engine->own_tokens -= run.kv_tokens;
  }
  running_.GiveBack(generation.tenant.name);
  const auto answered = static_cast<double>(run.request->completion_tokens());
  const double prompt =
      run.request->first_token_time() ? static_cast<double>(generation.prompt_ids.size()) : 0;
  queue_.Settle(*run.place, prompt + answered - run.place->cost);
  if (run.request->finish_time()) {
    std::optional<Duration> since_first;
    if (run.request->first_token_time() && generation.sampling.pace == 0) {
      since_first = *run.request->finish_time() - *run.request->first_token_time();
    }
    estimate_.Answered(answered / generation.num_choices, since_first);
  }
}

bool RequestScheduler::PutBack(uint64_t key, Run& run) {
  if (run.request->first_token_time() || !run.request->FinishReasons().empty()) return false;
  if (EngineSet::Engine* const engine = engines_.Find(run.engine)) {
    engine->leaving = true;
    // Of several choices it may have taken the first ones.
    for (int32_t i = 0; i < run.request->generation().num_choices; ++i) {
      engine->link->Cancel(run.first_sequence + static_cast<uint64_t>(i));
    }
  }
  LeaveEngine(run);
  run.engine.clear();
  const WaitingRequest place = *std::exchange(run.place, std::nullopt);
  queue_.Push({.key = key,
               .qos = place.qos,
               .tenant = place.tenant,
               .weight = place.weight,
               .cost = place.cost,
               .arrival = place.arrival,
               .deadline = place.deadline});
  Dispatch();
  return true;
}

void RequestScheduler::TakeListener(uint64_t key, const Run& run, const absl::Status& status) {
  const auto found = listeners_.find(key);
  RecordEnd(registry_, found->second.record, status, run.request->completion_tokens(), run.engine,
            clock_.Now());
  listeners_by_id_.erase({found->second.record.tenant, found->second.record.request_id});
  listeners_.erase(found);
}

void RequestScheduler::EndListener(uint64_t key, const absl::Status& status) {
  const uint64_t run_key = listeners_.at(key).run;
  Run& run = runs_.at(run_key);
  std::erase(run.listeners, key);
  TakeListener(key, run, status);
  if (!run.listeners.empty()) return;
  if (EngineSet::Engine* const engine = engines_.Find(run.engine)) {
    for (int32_t i = 0; i < run.request->generation().num_choices; ++i) {
      engine->link->Cancel(run.first_sequence + static_cast<uint64_t>(i));
    }
  }
  EndRun(run_key, status);
}

void RequestScheduler::FailListener(uint64_t key, const absl::Status& status) {
  const uint64_t run_key = listeners_.at(key).run;
  Run& run = runs_.at(run_key);
  if (run.listeners.size() == 1) {
    Apply(run_key, run.request->Fail(status), status);
    return;
  }
  run.answer->Fail(key, status);
  EndListener(key, status);
}

}  // namespace conclave::gateway
