// Waiting in tests for what other threads and processes do.
#pragma once

#include <chrono>
#include <functional>
#include <thread>

namespace conclave::testing {

// Until `condition` holds; false: it did not within `patience`, which is long enough for a machine
// that does much else. The thread sleeps between looks, so that those it waits for can run.
inline bool WaitFor(const std::function<bool()>& condition,
                    std::chrono::milliseconds patience = std::chrono::seconds(20)) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace conclave::testing
