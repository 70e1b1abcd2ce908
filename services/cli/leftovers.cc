#include "services/cli/leftovers.h"

#include <signal.h>

#include <thread>

#include "services/cli/cluster_state.h"
#include "shared/base/clock.h"
#include "shared/base/drain_report.h"

namespace conclave::cli {
namespace {

// Beyond the drain time: to close files and leave the cluster.
constexpr Duration kExitGrace = std::chrono::seconds(5);
constexpr Duration kPoll = std::chrono::milliseconds(20);

void SignalAll(const std::vector<ProcessState>& processes, int number) {
  for (const ProcessState& process : processes) {
    if (IsAlive(process.pid, process.start_ticks)) kill(static_cast<pid_t>(process.pid), number);
  }
}

void WaitForEnd(const std::vector<ProcessState>& processes, Duration grace) {
  const auto deadline = std::chrono::steady_clock::now() + grace;
  while (AnyAlive(processes) && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(kPoll);
  }
}

}  // namespace

Leftovers EndLeftovers(const std::string& state_dir) {
  Leftovers left;
  auto state = ReadClusterState(state_dir);
  if (!state.ok() || state->supervised) return left;
  for (const char* kind : {"gateway", "engine", "expert", "controller"}) {
    std::vector<ProcessState> of_kind;
    for (const ProcessState& process : state->processes) {
      if (process.kind == kind && IsAlive(process.pid, process.start_ticks)) {
        of_kind.push_back(process);
      }
    }
    left.ended += static_cast<int>(of_kind.size());
    SignalAll(of_kind, SIGTERM);
    WaitForEnd(of_kind, std::chrono::seconds(state->drain_seconds) + kExitGrace);
    SignalAll(of_kind, SIGKILL);
    WaitForEnd(of_kind, kExitGrace);
    for (const ProcessState& process : of_kind) {
      const auto report = ReadDrainReport(DrainReportPath(state_dir, process.name));
      if (process.kind != "gateway" || !report.ok() || report->pid != process.pid) continue;
      state->drained_requests = report->running;
      state->cut_off_requests = report->cut_off;
      left.drain = DescribeDrain(*state);
    }
  }
  return left;
}

}  // namespace conclave::cli
