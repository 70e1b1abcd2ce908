#include "services/gateway/prompt_lane.h"

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shared/base/thread_name.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

// Encoding takes some 250 bytes a byte of text: from here on it is worth handing them back.
constexpr size_t kTrimBytes = 128 << 10;
// A tenant may have so many times as much waiting as is free.
constexpr size_t kTimesFree = 8;

absl::Status Stopped() { return absl::UnavailableError("the gateway is shutting down"); }

absl::Status WhyInterrupted(const text::Interrupt& interrupt) {
  return interrupt.reason() == text::Interrupt::Reason::kDeadline
             ? absl::DeadlineExceededError("the request's time was over before its turn came")
             : absl::CancelledError("the client has gone");
}

}  // namespace

PromptLane::PromptLane(Options options)
    : options_(std::move(options)), running_(static_cast<size_t>(options_.num_threads)) {
  for (size_t i = 0; i < static_cast<size_t>(options_.num_threads); ++i) {
    threads_.emplace_back([this, i] {
      SetThreadName(options_.thread_name);
      // Of this thread, on Linux.
      const auto thread = static_cast<id_t>(::gettid());
      ::setpriority(PRIO_PROCESS, thread, ::getpriority(PRIO_PROCESS, thread) + options_.nice);
      Loop(i);
    });
  }
}

PromptLane::~PromptLane() { Stop(); }

void PromptLane::Run(Work work) {
  absl::Status refusal;
  {
    MutexLock lock(mutex_);
    if (stopping_) {
      refusal = Stopped();
    } else if (!MayWait(work)) {
      refusal = rpc::WithDetails(
          absl::ResourceExhaustedError(
              absl::StrCat("prompts of ", waiting_bytes_, " bytes wait already; try later")),
          {.reason = "TOO_MANY_PROMPTS", .metadata = {}, .retry_after_ms = 1000, .fields = {}});
    } else {
      Push(std::move(work));
      changed_.NotifyOne();
      return;
    }
  }
  work.run(refusal);
}

bool PromptLane::MayWait(const Work& work) const {
  if (waiting_.empty()) return true;
  if (waiting_bytes_ + work.bytes > kMaxWaitingPromptBytes) return false;
  const auto found = waiting_.find(work.tenant);
  const size_t free = kMaxWaitingPromptBytes - waiting_bytes_ - work.bytes;
  return found == waiting_.end() || found->second.bytes <= kTimesFree * free;
}

void PromptLane::Push(Work work) {
  waiting_bytes_ += work.bytes;
  Queue& queue = waiting_[work.tenant];
  queue.bytes += work.bytes;
  queue.work.push_back(std::move(work));
}

PromptLane::Work PromptLane::Pop() {
  auto next = waiting_.upper_bound(last_tenant_);
  if (next == waiting_.end()) next = waiting_.begin();
  last_tenant_ = next->first;
  Queue& queue = next->second;
  Work work = std::move(queue.work.front());
  queue.work.pop_front();
  queue.bytes -= work.bytes;
  waiting_bytes_ -= work.bytes;
  if (queue.work.empty()) waiting_.erase(next);
  return work;
}

std::vector<PromptLane::Work> PromptLane::TakeOut(const std::function<bool(const Work&)>& ends) {
  std::vector<Work> taken;
  for (auto& [tenant, queue] : waiting_) {
    const auto first = std::stable_partition(queue.work.begin(), queue.work.end(),
                                             [&](const Work& work) { return !ends(work); });
    for (auto each = first; each != queue.work.end(); ++each) {
      queue.bytes -= each->bytes;
      waiting_bytes_ -= each->bytes;
      taken.push_back(std::move(*each));
    }
    queue.work.erase(first, queue.work.end());
  }
  std::erase_if(waiting_, [](const auto& entry) { return entry.second.work.empty(); });
  return taken;
}

void PromptLane::Sweep() {
  std::vector<Work> vain;
  {
    MutexLock lock(mutex_);
    vain = TakeOut([](const Work& work) { return work.interrupt->interrupted(); });
  }
  for (const Work& work : vain) work.run(WhyInterrupted(*work.interrupt));
}

void PromptLane::Stop() {
  std::vector<Work> waiting;
  {
    MutexLock lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    for (const auto& interrupt : running_) {
      if (interrupt) interrupt->Cancel();
    }
    waiting = TakeOut([](const Work&) { return true; });
    changed_.NotifyAll();
  }
  for (std::thread& thread : threads_) thread.join();
  for (const Work& work : waiting) work.run(Stopped());
}

void PromptLane::Loop(size_t thread) {
  for (;;) {
    Work work;
    {
      MutexLock lock(mutex_);
      running_[thread].reset();
      while (waiting_.empty() && !stopping_) changed_.WaitFor(mutex_, std::chrono::seconds(1));
      if (stopping_) return;
      work = Pop();
      running_[thread] = work.interrupt;
    }
    work.run(work.interrupt->interrupted() ? WhyInterrupted(*work.interrupt) : absl::OkStatus());
    const size_t bytes = work.bytes;
    work = Work();
    if (bytes >= kTrimBytes) ::malloc_trim(0);
  }
}

}  // namespace conclave::gateway
