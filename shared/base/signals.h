// SIGTERM, SIGINT and SIGHUP (the terminal has gone) as something to wait for.
#pragma once

#include <optional>

#include "shared/base/clock.h"

namespace conclave {

// Made first in main, before any thread, because threads inherit the mask: blocks them in
// this and all later threads and ignores SIGPIPE. One per program.
class StopSignals {
 public:
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // Waits for the next of them: its number, or nullopt when the timeout passed. Each
  // signal is returned once, so that a second Ctrl-C can be told from the first.
  std::optional<int> WaitFor(Duration timeout);

  // Puts the default mask and dispositions back: for a child between fork and exec.
  static void Restore();
};

}  // namespace conclave
