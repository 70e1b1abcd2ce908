// Where prompts are made into ids: short ones at once on the calling thread, long ones one after
// the other on a thread of their own, so that they never hold up the threads that serve others.
// Tenants take turns, so that nobody waits behind more than one prompt of each of the others.
//
// Run is for any thread. The lane's thread ("prompt-lane") runs at a lower priority than the rest
// of the machine's work and gives back the memory that a long text has taken.
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

// Of a request, before it is parsed. Encoding so much takes about 20 ms.
inline constexpr size_t kShortPromptBytes = 16 << 10;
// Of the requests that wait; a further one is refused, and one of a tenant that has eight times as
// much waiting as is free.
inline constexpr size_t kMaxWaitingPromptBytes = 64 << 20;

class PromptLane {
 public:
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

  PromptLane();
  ~PromptLane();  // Stop

  void Run(Work work) EXCLUDES(mutex_);
  // Ends what waits in vain. To be called now and then: nothing else looks while a long text runs.
  void Sweep() EXCLUDES(mutex_);
  // Interrupts what runs and ends what waits; further work is refused. Joins the thread.
  void Stop() EXCLUDES(mutex_);

 private:
  struct Queue {
    std::deque<Work> work;  // never empty
    size_t bytes = 0;
  };

  void Loop() EXCLUDES(mutex_);
  bool MayWait(const Work& work) const REQUIRES(mutex_);
  void Push(Work work) REQUIRES(mutex_);
  Work Pop() REQUIRES(mutex_);
  // Takes out all for which `ends`.
  std::vector<Work> TakeOut(const std::function<bool(const Work&)>& ends) REQUIRES(mutex_);

  Mutex mutex_;
  CondVar changed_;
  std::map<std::string, Queue> waiting_ GUARDED_BY(mutex_);  // by tenant
  std::string last_tenant_ GUARDED_BY(mutex_);               // whose turn it was
  size_t waiting_bytes_ GUARDED_BY(mutex_) = 0;
  std::shared_ptr<text::Interrupt> running_ GUARDED_BY(mutex_);
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace conclave::gateway
