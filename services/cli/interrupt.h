// Ctrl-C as a flag, while something runs that looks at the flag.
#pragma once

#include <atomic>
#include <thread>

#include "shared/base/signals.h"
#include "shared/base/thread_name.h"

namespace conclave::cli {

// Watches the stop signals on a thread of its own for the life of the object.
class InterruptFlag {
 public:
  explicit InterruptFlag(StopSignals& signals)
      : thread_([this, &signals] {
          SetThreadName("interrupt");
          while (!done_.load()) {
            if (signals.WaitFor(std::chrono::milliseconds(50))) interrupted_.store(true);
          }
        }) {}
  ~InterruptFlag() {
    done_.store(true);
    thread_.join();
  }
  InterruptFlag(const InterruptFlag&) = delete;
  InterruptFlag& operator=(const InterruptFlag&) = delete;

  const std::atomic<bool>& interrupted() const { return interrupted_; }

 private:
  std::atomic<bool> interrupted_{false};
  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace conclave::cli
