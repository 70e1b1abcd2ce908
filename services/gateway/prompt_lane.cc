#include "services/gateway/prompt_lane.h"

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shared/base/thread_name.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

// About a third of an ordinary thread's share of a busy core.
constexpr int kNice = 5;
// Encoding takes some 250 bytes a byte of text: from here on it is worth handing them back.
constexpr size_t kTrimBytes = 128 << 10;

absl::Status Stopped() { return absl::UnavailableError("the gateway is shutting down"); }

absl::Status WhyInterrupted(const text::Interrupt& interrupt) {
  return interrupt.reason() == text::Interrupt::Reason::kDeadline
             ? absl::DeadlineExceededError("the request's time was over before its turn came")
             : absl::CancelledError("the client has gone");
}

}  // namespace

PromptLane::PromptLane() {
  thread_ = std::thread([this] {
    SetThreadName("prompt-lane");
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice);  // of this thread, on Linux
    Loop();
  });
}

PromptLane::~PromptLane() { Stop(); }

void PromptLane::Run(Work work) {
  if (work.bytes <= kShortPromptBytes) {
    work.run(absl::OkStatus());
    return;
  }
  absl::Status refusal;
  {
    MutexLock lock(mutex_);
    if (stopping_) {
      refusal = Stopped();
    } else if (!waiting_.empty() && waiting_bytes_ + work.bytes > kMaxWaitingPromptBytes) {
      refusal = rpc::WithDetails(
          absl::ResourceExhaustedError(
              absl::StrCat("long prompts of ", waiting_bytes_, " bytes wait already; try later")),
          {.reason = "TOO_MANY_LONG_PROMPTS",
           .metadata = {},
           .retry_after_ms = 1000,
           .fields = {}});
    } else {
      waiting_bytes_ += work.bytes;
      waiting_.push_back(std::move(work));
      changed_.NotifyAll();
      return;
    }
  }
  work.run(refusal);
}

void PromptLane::Sweep() {
  std::vector<Work> vain;
  {
    MutexLock lock(mutex_);
    const auto first =
        std::stable_partition(waiting_.begin(), waiting_.end(),
                              [](const Work& work) { return !work.interrupt->interrupted(); });
    vain.assign(std::make_move_iterator(first), std::make_move_iterator(waiting_.end()));
    waiting_.erase(first, waiting_.end());
    for (const Work& work : vain) waiting_bytes_ -= work.bytes;
  }
  for (const Work& work : vain) work.run(WhyInterrupted(*work.interrupt));
}

void PromptLane::Stop() {
  std::deque<Work> waiting;
  {
    MutexLock lock(mutex_);
    if (stopping_ && !thread_.joinable()) return;
    stopping_ = true;
    if (running_) running_->Cancel();
    waiting.swap(waiting_);
    waiting_bytes_ = 0;
    changed_.NotifyAll();
  }
  thread_.join();
  for (const Work& work : waiting) work.run(Stopped());
}

void PromptLane::Loop() {
  for (;;) {
    Work work;
    {
      MutexLock lock(mutex_);
      while (waiting_.empty() && !stopping_) changed_.WaitFor(mutex_, std::chrono::seconds(1));
      if (stopping_) return;
      work = std::move(waiting_.front());
      waiting_.pop_front();
      waiting_bytes_ -= work.bytes;
      running_ = work.interrupt;
    }
    work.run(work.interrupt->interrupted() ? WhyInterrupted(*work.interrupt) : absl::OkStatus());
    const size_t bytes = work.bytes;
    work = Work();
    if (bytes >= kTrimBytes) ::malloc_trim(0);
    MutexLock lock(mutex_);
    running_.reset();
  }
}

}  // namespace conclave::gateway
