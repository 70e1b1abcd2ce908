#include "shared/base/signals.h"

#include <signal.h>
#include <time.h>

namespace conclave {
namespace {

sigset_t StopSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  struct sigaction hang_up = {};
  sigaction(SIGHUP, nullptr, &hang_up);
  if (hang_up.sa_handler != SIG_IGN) sigaddset(&set, SIGHUP);  // nohup: to be ignored
  return set;
}

}  // namespace

StopSignals::StopSignals() {
  const sigset_t set = StopSet();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

std::optional<int> StopSignals::WaitFor(Duration timeout) {
  const sigset_t set = StopSet();
  const int64_t ns = timeout.count() < 0 ? 0 : timeout.count();
  const timespec wait = {static_cast<time_t>(ns / 1'000'000'000), ns % 1'000'000'000};
  const int signal_number = sigtimedwait(&set, nullptr, &wait);
  if (signal_number < 0) return std::nullopt;
  return signal_number;
}

void StopSignals::Restore() {
  const sigset_t set = StopSet();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_DFL);
}

}  // namespace conclave
