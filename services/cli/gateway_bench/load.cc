#include "services/cli/gateway_bench/load.h"

#include <sys/prctl.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <utility>

#include "shared/base/mutex.h"
#include "shared/base/thread_name.h"

namespace conclave::cli {
namespace {

using std::chrono::steady_clock;

constexpr Duration kPoll = std::chrono::milliseconds(5);

// Outlives the load: a request that ends after patience still finds it.
class Loop : public std::enable_shared_from_this<Loop> {
 public:
  Loop(const LoadOptions& options, Sender sender)
      : options_(options),
        sender_(std::move(sender)),
        start_(steady_clock::now()),
        end_(start_ + options.duration) {}

  void SendFrom(TimePoint intended) EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      ++result_.sent;
      ++running_;
    }
    sender_([self = shared_from_this(), intended](const absl::Status& status) {
      self->OnEnd(intended, status);
    });
  }

  LoadResult Run() EXCLUDES(mutex_) {
    if (options_.in_flight > 0) {
      for (int32_t i = 0; i < options_.in_flight; ++i) SendFrom(steady_clock::now());
    } else {
      SendOnTime();
    }
    MutexLock lock(mutex_);
    TimePoint last = end_ + options_.patience;
    while (running_ > 0 && steady_clock::now() < last) {
      if (Interrupted()) last = std::min<TimePoint>(last, steady_clock::now() + options_.patience);
      changed_.WaitFor(mutex_, kPoll);
    }
    closed_ = true;
    result_.failed += running_;
    if (running_ > 0 && result_.first_error.ok()) {
      result_.first_error = absl::DeadlineExceededError("no answer within the time of the load");
    }
    result_.seconds =
        std::chrono::duration<double>(std::min<TimePoint>(end_, steady_clock::now()) - start_)
            .count();
    return std::move(result_);
  }

 private:
  bool Interrupted() const { return options_.interrupted && options_.interrupted->load(); }
  bool Over(TimePoint now) const { return now >= end_ || Interrupted(); }

  // On a thread of its own, whose timers the system does not delay to bundle them.
  void SendOnTime() {
    std::thread([this] {
      SetThreadName("bench-pace");
      prctl(PR_SET_TIMERSLACK, 1);
      const Duration period = FromSeconds(1 / std::max(options_.rate, 1e-3));
      for (TimePoint next = start_; !Over(next) && WaitUntil(next); next += period) SendFrom(next);
      while (options_.poll && AnyRunning() && steady_clock::now() < end_ + options_.patience) {
        options_.poll();
      }
    }).join();
  }

  // False when the load is over before.
  bool WaitUntil(TimePoint due) {
    if (options_.poll) options_.poll();
    for (TimePoint now = steady_clock::now(); now < due; now = steady_clock::now()) {
      if (Over(now)) return false;
      if (options_.poll) {
        options_.poll();
      } else {
        std::this_thread::sleep_for(std::min<Duration>(due - now, kPoll));
      }
    }
    return true;
  }

  bool AnyRunning() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return running_ > 0;
  }

  void OnEnd(TimePoint intended, const absl::Status& status) EXCLUDES(mutex_) {
    const TimePoint now = steady_clock::now();
    const double took = std::chrono::duration<double>(now - intended).count();
    bool again = false;
    {
      MutexLock lock(mutex_);
      --running_;
      if (closed_) return;
      if (status.ok()) {
        result_.answered += now <= end_;
        result_.latencies.push_back(took);
        result_.due.push_back(std::chrono::duration<double>(intended - start_).count());
      } else {
        ++result_.failed;
        if (absl::IsResourceExhausted(status)) result_.refusals.push_back(took);
        if (result_.first_error.ok()) result_.first_error = status;
      }
      // A failure ends its place in a closed loop: a gateway that refuses must not be hammered.
      again = options_.in_flight > 0 && status.ok() && !Over(now);
    }
    if (again) {
      SendFrom(now);
    } else {
      changed_.NotifyAll();
    }
  }

  const LoadOptions options_;
  const Sender sender_;
  const TimePoint start_, end_;
  Mutex mutex_;
  CondVar changed_;
  int64_t running_ GUARDED_BY(mutex_) = 0;
  bool closed_ GUARDED_BY(mutex_) = false;
  LoadResult result_ GUARDED_BY(mutex_);
};

}  // namespace

int64_t EndedWithin(const LoadResult& result, double begin, double end) {
  int64_t count = 0;
  for (size_t i = 0; i < result.latencies.size(); ++i) {
    const double at = result.due[i] + result.latencies[i];
    count += at >= begin && at <= end;
  }
  return count;
}

LoadResult RunLoad(const LoadOptions& options, Sender sender) {
  return std::make_shared<Loop>(options, std::move(sender))->Run();
}

}  // namespace conclave::cli
