// conclave-expert: serves the routed experts that the controller's topology gives it.

#include <chrono>
#include <cstdio>
#include <string>

#include "services/expert/worker.h"
#include "shared/base/log.h"
#include "shared/base/settings.h"
#include "shared/base/signals.h"
#include "shared/options/options.h"

namespace {

constexpr std::chrono::milliseconds kCheckPeriod{200};

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "conclave-expert: %s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace conclave;
  StopSignals signals;
  AllOptions options;
  Settings settings(
      "conclave-expert", "expert",
      "Serves routed experts of a model to engines, as the controller's topology says.");
  options.Bind(settings);
  bool exit_now = false;
  if (const absl::Status status = settings.Parse(argc, argv, &exit_now); !status.ok())
    return Fail(status);
  if (exit_now) return 0;
  if (const absl::Status status = options.common.Validate(); !status.ok()) return Fail(status);
  if (const absl::Status status = options.expert.Validate(); !status.ok()) return Fail(status);
  if (const absl::Status status =
          StartLog(options.expert.name, options.common.log_level, options.common.log_format);
      !status.ok()) {
    return Fail(status);
  }

  auto worker = expert::Worker::Start(options.common, options.expert);
  if (!worker.ok()) return Fail(worker.status());
  while (!signals.WaitFor(kCheckPeriod).has_value()) {
    if (const absl::Status failure = (*worker)->Failure(); !failure.ok()) return Fail(failure);
  }
  LogInfo("leaving the cluster");
  (*worker)->Drain(std::chrono::seconds(options.common.drain_seconds));
  return 0;
}
