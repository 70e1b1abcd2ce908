// conclave-expert: serves the routed experts that the controller's topology gives it.

#include <chrono>
#include <memory>

#include "services/expert/worker.h"
#include "shared/base/log.h"
#include "shared/base/signals.h"
#include "shared/base/status_macros.h"
#include "shared/options/service_main.h"

namespace conclave {
namespace {

constexpr char kSection[] = "expert";
constexpr std::chrono::milliseconds kCheckPeriod{200};

absl::Status Run(int argc, char** argv) {
  StopSignals signals;
  AllOptions options;
  ASSIGN_OR_RETURN(
      const bool serve,
      StartService(
          kSection,
          "Serves routed experts of a model to engines, as the controller's topology says.", argc,
          argv, &options));
  if (!serve) return absl::OkStatus();

  ASSIGN_OR_RETURN(const std::unique_ptr<expert::Worker> worker,
                   expert::Worker::Start(options.common, options.expert));
  while (!signals.WaitFor(kCheckPeriod)) RETURN_IF_ERROR(worker->Failure());
  LogInfo("leaving the cluster");
  worker->Drain(std::chrono::seconds(options.common.drain_seconds));
  return absl::OkStatus();
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  return conclave::ExitCode(conclave::kSection, conclave::Run(argc, argv));
}
