#include "services/cli/leftovers.h"

#include <signal.h>

#include <thread>

#include "services/cli/cluster_state.h"
#include "shared/base/clock.h"

namespace conclave::cli {
namespace {

constexpr Duration kGrace = std::chrono::seconds(10);
constexpr Duration kPoll = std::chrono::milliseconds(20);

}  // namespace

int EndLeftovers(const std::string& state_dir) {
  const auto state = ReadClusterState(state_dir);
  if (!state.ok() || state->supervised) return 0;
  int ended = 0;
  for (const int signal_number : {SIGTERM, SIGKILL}) {
    for (const ProcessState& process : state->processes) {
      if (!IsAlive(process.pid, process.start_ticks)) continue;
      kill(static_cast<pid_t>(process.pid), signal_number);
      if (signal_number == SIGTERM) ++ended;
    }
    const auto deadline = std::chrono::steady_clock::now() + kGrace;
    while (AnyAlive(state->processes) && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(kPoll);
    }
  }
  return ended;
}

}  // namespace conclave::cli
