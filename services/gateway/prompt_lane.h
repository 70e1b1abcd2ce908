// Work on prompts that waits for its turn: parsed, checked and made into ids on the lane's own
// threads, so that it never holds up those that serve others. Tenants take turns, so that nobody
// waits behind more than one prompt of each of the others on a thread.
//
// Run is for any thread. The lane's threads give back the memory that a long text has taken. Which
// lane a request takes: prompt_lanes.h.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "shared/base/mutex.h"
#include "shared/text/interrupt.h"

namespace conclave::gateway {

// Of the requests that wait in a lane; a further one is refused, and one of a tenant that has eight
// times as much waiting as is free.
inline constexpr size_t kMaxWaitingPromptBytes = 64 << 20;

class PromptLane {
 public:
  struct Options {
    std::string thread_name;
    int num_threads = 1;
    int nice = 0;  // of the threads, beyond the process's
  };
  struct Work {
    size_t bytes = 0;  // of the request
    std::string tenant = {};
    // Whether anybody still waits for it; asked while it waits and while it runs.
    std::shared_ptr<text::Interrupt> interrupt;
    // Called once, with OK: go ahead. Else with why not: RESOURCE_EXHAUSTED (too much waits
    // already), CANCELLED or DEADLINE_EXCEEDED (while it waited), UNAVAILABLE (the lane was
    // stopped).
    std::function<void(const absl::Status&)> run;
  };

  explicit PromptLane(Options options);
  ~PromptLane();  // Stop

  // On one of the lane's threads when its turn comes; what is refused hears of it here.
  void Run(Work work) EXCLUDES(mutex_);
  // Ends what waits in vain. To be called now and then: nothing else looks while long texts run.
  void Sweep() EXCLUDES(mutex_);
  // Interrupts what runs and ends what waits; further work is refused. Joins the threads.
  void Stop() EXCLUDES(mutex_);

 private:
  struct Queue {
    std::deque<Work> work;  // never empty
    size_t bytes = 0;
  };

  void Loop(size_t thread) EXCLUDES(mutex_);
  bool MayWait(const Work& work) const REQUIRES(mutex_);
  void Push(Work work) REQUIRES(mutex_);
  Work Pop() REQUIRES(mutex_);
  // Takes out all for which `ends`.
  std::vector<Work> TakeOut(const std::function<bool(const Work&)>& ends) REQUIRES(mutex_);

  const Options options_;
  Mutex mutex_;
  CondVar changed_;
  std::map<std::string, Queue> waiting_ GUARDED_BY(mutex_);  // by tenant
  std::string last_tenant_ GUARDED_BY(mutex_);               // whose turn it was
  size_t waiting_bytes_ GUARDED_BY(mutex_) = 0;
  std::vector<std::shared_ptr<text::Interrupt>> running_ GUARDED_BY(mutex_);  // by thread, or null
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace conclave::gateway
