// `conclave down`: ends the local cluster in order.
#include <signal.h>

#include <cstdio>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "services/cli/cluster_state.h"
#include "services/cli/command.h"
#include "services/cli/hint.h"
#include "services/cli/leftovers.h"
#include "services/cli/table.h"
#include "shared/base/signals.h"

namespace conclave::cli {
namespace {

using std::chrono::steady_clock;

constexpr Duration kPoll = std::chrono::milliseconds(10);
constexpr auto kTellAfter = std::chrono::seconds(2);
// Beyond the drain time: what the supervisor itself may take for four kinds of processes.
constexpr auto kMostBeyondDrain = std::chrono::seconds(60);

class DownCommand final : public Command {
 public:
  const char* name() const override { return "down"; }
  const char* summary() const override { return "end the local cluster"; }
  void AddFlags(CLI::App&) override {}
  int Run(const Context& context) override;
};

int DownCommand::Run(const Context& context) {
  const auto state = ReadRunningCluster(context.state_dir);
  if (!state.ok()) return Fail(state.status());
  if (!state->supervised) {
    const Leftovers left = EndLeftovers(context.state_dir);
    std::printf("%s of a cluster whose supervisor had died ended%s\n",
                Count(left.ended, "process").c_str(), left.drain.c_str());
    return kExitOk;
  }
  StopSignals signals;
  const auto start = steady_clock::now();
  // A second signal would cut off what runs.
  const bool draining = state->phase == "draining";
  if (!draining && kill(static_cast<pid_t>(state->supervisor_pid), SIGTERM) != 0) {
    return Fail(absl::PermissionDeniedError(
        absl::StrCat("the supervisor ", state->supervisor_pid, " belongs to another user")));
  }
  const auto deadline = start + std::chrono::seconds(state->drain_seconds) + kMostBeyondDrain;
  bool told = false;
  while (IsAlive(state->supervisor_pid, state->supervisor_start_ticks)) {
    if (steady_clock::now() > deadline) {
      return Fail(absl::DeadlineExceededError(
          absl::StrCat("the supervisor ", state->supervisor_pid, " does not end; see ",
                       context.state_dir, "/logs/supervisor.log, then: kill -9 ",
                       state->supervisor_pid, "; ", Hint("down", context.state_dir))));
    }
    if (!told && (draining || steady_clock::now() - start > kTellAfter)) {
      std::printf("draining%s, at most %lld s for running requests; at once: kill %lld\n",
                  draining ? " already" : "", static_cast<long long>(state->drain_seconds),
                  static_cast<long long>(state->supervisor_pid));
      std::fflush(stdout);
      told = true;
    }
    if (signals.WaitFor(kPoll)) {
      std::fprintf(stderr, "interrupted; the cluster goes on ending\n");
      return kExitInterrupted;
    }
  }
  const auto ended = ReadClusterState(context.state_dir);
  // A supervisor that was itself killed meanwhile has left processes behind.
  EndLeftovers(context.state_dir);
  const std::string drain = ended.ok() && ended->phase == "ended" ? DescribeDrain(*ended) : "";
  const double seconds = std::chrono::duration<double>(steady_clock::now() - start).count();
  std::printf("%zu processes ended in %s%s\n", state->processes.size(),
              FormatSeconds(seconds).c_str(), drain.c_str());
  return kExitOk;
}

}  // namespace

std::unique_ptr<Command> MakeDownCommand() { return std::make_unique<DownCommand>(); }

}  // namespace conclave::cli
