// conclave-engine: serves a model's attention layers, KV cache and sampling to gateways; or, as
// `conclave-engine evaluate`, tells what a number format does to a model (evaluation/).

#include <unistd.h>

#include <chrono>
#include <memory>
#include <string_view>

#include "services/engine/engine.h"
#include "services/engine/evaluation/evaluate_main.h"
#include "shared/base/log.h"
#include "shared/base/signals.h"
#include "shared/base/status_macros.h"
#include "shared/options/service_main.h"

namespace conclave {
namespace {

constexpr char kSection[] = "engine";
constexpr std::chrono::milliseconds kCheckPeriod{200};

absl::Status Run(int argc, char** argv) {
  StopSignals signals;
  AllOptions options;
  ASSIGN_OR_RETURN(
      const bool serve,
      StartService(kSection,
                   "Serves a model's attention layers, KV cache and sampling to gateways.", argc,
                   argv, &options));
  if (!serve) return absl::OkStatus();

  ASSIGN_OR_RETURN(const std::unique_ptr<engine::Engine> engine,
                   engine::Engine::Start(options.common, options.engine));
  absl::Status failure;
  while (failure.ok() && !signals.WaitFor(kCheckPeriod)) failure = engine->Failure();
  if (engine->loading()) {
    LogInfo("ended while loading");
    engine->Leave();
    // Reading the weights cannot be stopped half way, and nothing runs that needs an orderly end.
    _exit(ExitCode(kSection, failure));
  }
  RETURN_IF_ERROR(failure);
  LogInfo("draining", {{"seconds", options.common.drain_seconds}});
  engine->Drain(std::chrono::seconds(options.common.drain_seconds));
  return absl::OkStatus();
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == conclave::engine::kEvaluateWord) {
    return conclave::engine::EvaluateMain();
  }
  return conclave::ExitCode(conclave::kSection, conclave::Run(argc, argv));
}
