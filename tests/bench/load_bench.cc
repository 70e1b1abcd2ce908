// How fast a checkpoint becomes weights in the kernels' order: the engine's part, then all experts.
// Run it twice: the first run reads the files from the disk.
//
//   build/tests/load_bench [--model DIR] [--class bf16] [--threads 2]

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <string>

#include "shared/experts/expert_set.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/engine_weights.h"

namespace conclave::weights {
namespace {

struct Options {
  std::string model = CONCLAVE_SOURCE_DIR "/models/tales";
  std::string numerics = "bf16";
  int threads = 2;
};

template <typename Load>
void Measure(const char* what, const Load& load) {
  const auto start = std::chrono::steady_clock::now();
  const size_t bytes = load();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%-8s %8.1f MB %8.3f s %6.2f GB/s\n", what, static_cast<double>(bytes) * 1e-6,
              seconds, static_cast<double>(bytes) * 1e-9 / seconds);
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "load_bench: %s\n", std::string(status.message()).c_str());
  return 1;
}

int Run(const Options& options) {
  const kernels::NumericsClass numerics = *kernels::ParseNumericsClass(options.numerics);
  auto opened = Checkpoint::Open(options.model, {});
  if (!opened.ok()) return Fail(opened.status());
  const std::shared_ptr<const Checkpoint> checkpoint = *std::move(opened);
  kernels::ThreadPool pool(options.threads);
  absl::Status status;
  Measure("engine", [&]() -> size_t {
    const auto weights = LoadEngineWeights(*checkpoint, numerics, nullptr, &pool);
    status = weights.status();
    return weights.ok() ? (*weights)->bytes : 0;
  });
  if (!status.ok()) return Fail(status);
  experts::ExpertSet experts(checkpoint, numerics);
  Measure("experts", [&] {
    for (int32_t layer = 0; layer < checkpoint->config().num_layers; ++layer) {
      if (!checkpoint->config().IsMoe(layer)) continue;
      for (int32_t expert = 0; expert < checkpoint->config().moe.num_experts; ++expert) {
        status.Update(experts.Load({layer, expert}, &pool));
      }
    }
    return experts.bytes();
  });
  return status.ok() ? 0 : Fail(status);
}

}  // namespace
}  // namespace conclave::weights

int main(int argc, char** argv) {
  conclave::weights::Options options;
  CLI::App app("Measures how fast weights are loaded");
  app.add_option("--model", options.model, "checkpoint folder")->check(CLI::ExistingDirectory);
  app.add_option("--class", options.numerics, "numerics class: f32, bf16, int8 or int4")
      ->check(CLI::IsMember({"f32", "bf16", "int8", "int4"}));
  app.add_option("--threads", options.threads, "loading threads")->check(CLI::Range(1, 1024));
  CLI11_PARSE(app, argc, argv);
  return conclave::weights::Run(options);
}
