// conclave-engine: serves a model's attention layers, KV cache and sampling to gateways.

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "services/engine/engine.h"
#include "shared/base/log.h"
#include "shared/base/settings.h"
#include "shared/base/signals.h"
#include "shared/options/options.h"

namespace {

constexpr std::chrono::milliseconds kCheckPeriod{200};

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "conclave-engine: %s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace conclave;
  StopSignals signals;
  AllOptions options;
  Settings settings("conclave-engine", "engine",
                    "Serves a model's attention layers, KV cache and sampling to gateways.");
  options.Bind(settings);
  bool exit_now = false;
  if (const absl::Status status = settings.Parse(argc, argv, &exit_now); !status.ok())
    return Fail(status);
  if (exit_now) return 0;
  if (const absl::Status status = options.Validate("engine"); !status.ok()) return Fail(status);
  if (const absl::Status status =
          StartLog(options.engine.name, options.common.log_level, options.common.log_format);
      !status.ok()) {
    return Fail(status);
  }

  auto engine = engine::Engine::Start(options.common, options.engine);
  if (!engine.ok()) return Fail(engine.status());
  while (!signals.WaitFor(kCheckPeriod).has_value()) {
    if (const absl::Status failure = (*engine)->Failure(); !failure.ok()) return Fail(failure);
  }
  if ((*engine)->loading()) {
    LogInfo("ended while loading");
    (*engine)->Leave();
    _exit(0);  // reading the weights cannot be stopped half way, and nothing runs that needs an
               // orderly end
  }
  LogInfo("draining", {{"seconds", options.common.drain_seconds}});
  (*engine)->Drain(std::chrono::seconds(options.common.drain_seconds));
  return 0;
}
