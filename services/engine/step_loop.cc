#include "services/engine/step_loop.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/base/thread_name.h"

namespace conclave::engine {
namespace {

// An idle loop turns this often, so that its age says whether it lives.
constexpr Duration kIdleTurn = std::chrono::milliseconds(200);
// The load of a busy loop is told this often.
constexpr Duration kReportPeriod = std::chrono::milliseconds(10);
constexpr Duration kTurnPeriod = std::chrono::seconds(1);
// While the warm-up waits for experts it is tried this often.
constexpr Duration kWarmUpRetry = std::chrono::milliseconds(100);
// The rate of generated tokens forgets over this time.
constexpr double kRateSeconds = 5;
// Cancellations are bounded by the live sequences and streams of the service; they must never be
// refused.
constexpr size_t kQueueCapacity = std::numeric_limits<size_t>::max();

}  // namespace

StepLoop::StepLoop(const Options& options, Stepper* stepper, const KvCache* cache,
                   const Clock* clock)
    : options_(options),
      stepper_(stepper),
      cache_(cache),
      clock_(clock),
      commands_(kQueueCapacity),
      last_turn_(clock->Now()),
      rate_at_(clock->Now()),
      thread_([this] { Run(); }) {}

StepLoop::~StepLoop() { Stop(); }

absl::Status StepLoop::Start(SequenceRequest request) {
  if (draining_.load())
    return absl::UnavailableError("the engine is draining: use another one, or try again later");
  if (queued_starts_.fetch_add(1) >= options_.max_queued_starts) {
    queued_starts_.fetch_sub(1);
    return absl::ResourceExhaustedError(absl::StrCat(
        options_.max_queued_starts, " new sequences wait for the step loop: try again later"));
  }
  if (!commands_.TryPush(std::move(request))) {
    queued_starts_.fetch_sub(1);
    return absl::UnavailableError("the engine is stopping: use another one, or try again later");
  }
  return absl::OkStatus();
}

void StepLoop::Cancel(const SequenceKey& key) { commands_.TryPush(CancelCommand{key}); }

void StepLoop::CancelStream(uint64_t stream) { commands_.TryPush(CancelStreamCommand{stream}); }

EngineLoad StepLoop::load() const {
  MutexLock lock(mutex_);
  EngineLoad load = load_;
  load.last_turn_age = clock_->Now() - last_turn_;
  return load;
}

void StepLoop::Drain() { draining_.store(true); }

bool StepLoop::WaitUntilWarm(Duration timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(mutex_);
  while (!load_.warm) {
    if (!changed_.WaitUntil(mutex_, deadline) && std::chrono::steady_clock::now() >= deadline)
      break;
  }
  return load_.warm;
}

bool StepLoop::WaitUntilEmpty(Duration timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(mutex_);
  while (!empty_ || queued_starts_.load() > 0) {
    if (!changed_.WaitUntil(mutex_, deadline) && std::chrono::steady_clock::now() >= deadline) {
      return empty_ && queued_starts_.load() == 0;
    }
  }
  return true;
}

void StepLoop::Stop() {
  draining_.store(true);
  stopping_.store(true);
  commands_.Close();
  if (thread_.joinable()) thread_.join();
}

void StepLoop::Run() {
  SetThreadName("step");
  bool warm = false;
  while (!stopping_.load()) {
    if (!warm && stepper_->scheduler().empty()) warm = WarmUp();
    for (Command& command : commands_.PopAll()) Apply(std::move(command));
    const bool stepped = stepper_->Step();
    Report();
    if (stepped) continue;
    const Duration until_wake = stepper_->NextWake() - clock_->Now();
    commands_.WaitNotEmpty(std::clamp(until_wake, Duration(0), warm ? kIdleTurn : kWarmUpRetry));
  }
  for (Command& command : commands_.PopAll()) Apply(std::move(command));
  stepper_->FailAll(
      absl::UnavailableError("the engine is stopping: use another one, or try again later"));
  Report();
}

// Waits for missing experts without holding up commands: sequences may start meanwhile, and park.
bool StepLoop::WarmUp() {
  const absl::Status status = stepper_->WarmUp();
  bool warm = status.ok();
  if (!warm && !absl::IsUnavailable(status)) {
    LogError("the warm-up failed", {{"error", status.ToString()}});
  }
  MutexLock lock(mutex_);
  load_.warm = warm;
  load_.warm_up = status;
  if (warm) changed_.NotifyAll();
  return warm;
}

void StepLoop::Apply(Command command) {
  if (auto* request = std::get_if<SequenceRequest>(&command)) {
    stepper_->Start(std::move(*request));
    // The sequence is the scheduler's before it is no longer the queue's: WaitUntilEmpty always
    // sees it.
    {
      MutexLock lock(mutex_);
      empty_ = stepper_->scheduler().empty();
    }
    queued_starts_.fetch_sub(1);
  } else if (const auto* cancel = std::get_if<CancelCommand>(&command)) {
    stepper_->Cancel(cancel->key);
  } else {
    stepper_->CancelStream(std::get<CancelStreamCommand>(command).stream);
  }
}

void StepLoop::Report() {
  const TimePoint now = clock_->Now();
  const Scheduler& scheduler = stepper_->scheduler();
  const bool empty = scheduler.empty();
  if (empty || now - reported_at_ >= kReportPeriod) {
    reported_at_ = now;
    ReportLoad(now);
  }
  if (options_.on_turn && now - turn_told_at_ >= kTurnPeriod) {
    turn_told_at_ = now;
    options_.on_turn();
  }
  MutexLock lock(mutex_);
  last_turn_ = now;
  empty_ = empty;
  if (empty) changed_.NotifyAll();
}

void StepLoop::ReportLoad(TimePoint now) {
  const double seconds = std::chrono::duration<double>(now - rate_at_).count();
  if (seconds >= 0.1) {
    const int64_t tokens = stepper_->num_generated_tokens();
    const double keep = std::exp(-seconds / kRateSeconds);
    tokens_per_second_ = keep * tokens_per_second_ +
                         (1 - keep) * static_cast<double>(tokens - tokens_counted_) / seconds;
    tokens_counted_ = tokens;
    rate_at_ = now;
  }
  const bool ask_missing = now - missing_at_ >= kIdleTurn;
  std::vector<std::pair<int32_t, int32_t>> missing;
  if (ask_missing) {
    missing = stepper_->MissingExperts();
    missing_at_ = now;
  }
  const Scheduler& scheduler = stepper_->scheduler();
  MutexLock lock(mutex_);
  if (ask_missing) load_.missing_experts = std::move(missing);
  load_.running = scheduler.num_running();
  load_.waiting = scheduler.num_waiting();
  load_.queued_tokens = scheduler.queued_tokens();
  load_.kv_used_ratio = static_cast<double>(cache_->used_blocks()) / cache_->num_blocks();
  load_.tokens_per_second = tokens_per_second_;
}

}  // namespace conclave::engine
