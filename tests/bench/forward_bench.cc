// Tokens per second of the forward pass in one process: prefill in chunks, then decoding with 1 and
// 8 sequences.
//
//   build/tests/forward_bench [--model DIR] [--class bf16] [--threads 2] [--prompt 512] [--chunk
//   256] [--decode 128]

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "shared/base/clock.h"
#include "tests/support/forward_rig.h"

namespace conclave::testing {
namespace {

struct Options {
  std::string model = CONCLAVE_SOURCE_DIR "/models/tales";
  std::string numerics = "bf16";
  std::string level{kernels::CpuLevelName(kernels::BestCpuLevel())};
  int threads = 2;
  int prompt = 512;  // tokens
  int chunk = 256;   // tokens of a prefill step
  int decode = 128;  // tokens a sequence
};

double SecondsSince(TimePoint start, const Clock& clock) {
  return std::chrono::duration<double>(clock.Now() - start).count();
}

void Print(const char* what, int64_t tokens, double seconds) {
  std::printf("%-24s %8lld tokens %9.3f s %10.1f tokens/s %9.3f ms a token\n", what,
              static_cast<long long>(tokens), seconds, static_cast<double>(tokens) / seconds,
              1e3 * seconds / static_cast<double>(tokens));
}

// Prefills `batch` sequences one after the other, then decodes them together.
void Measure(ForwardRig& rig, const Options& options, int batch) {
  const SteadyClock clock;
  const int32_t vocab = rig.model().config().vocab_size;
  std::vector<int32_t> prompt;
  for (int i = 0; i < options.prompt; ++i) prompt.push_back((i * 7919 + 13) % vocab);

  TimePoint start = clock.Now();
  for (int sequence = 0; sequence < batch; ++sequence) {
    for (size_t first = 0; first < prompt.size(); first += static_cast<size_t>(options.chunk)) {
      const size_t count = std::min(prompt.size() - first, static_cast<size_t>(options.chunk));
      rig.Step({{.sequence = sequence,
                 .ids = std::span(prompt).subspan(first, count),
                 .num_logits = first + count == prompt.size() ? 1 : 0}});
    }
  }
  const std::string name = "batch " + std::to_string(batch);
  Print((name + " prefill").c_str(), int64_t{batch} * options.prompt, SecondsSince(start, clock));

  std::vector<std::vector<int32_t>> next(static_cast<size_t>(batch), std::vector<int32_t>(1));
  std::vector<ForwardRig::Part> parts;
  for (int sequence = 0; sequence < batch; ++sequence) {
    parts.push_back({.sequence = sequence, .ids = next[sequence], .num_logits = 1});
  }
  start = clock.Now();
  for (int step = 0; step < options.decode; ++step) {
    for (int sequence = 0; sequence < batch; ++sequence)
      next[sequence][0] = (step * 31 + sequence * 101) % vocab;
    rig.Step(parts);
  }
  Print((name + " decode").c_str(), int64_t{batch} * options.decode, SecondsSince(start, clock));
  for (int sequence = 0; sequence < batch; ++sequence) rig.Forget(sequence);
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Tokens per second of the forward pass");
  app.add_option("--model", options.model, "checkpoint folder");
  app.add_option("--class", options.numerics, "numerics class: f32, bf16, int8 or int4")
      ->check(CLI::IsMember({"f32", "bf16", "int8", "int4"}));
  app.add_option("--level", options.level, "instruction level");
  app.add_option("--threads", options.threads, "compute threads");
  app.add_option("--prompt", options.prompt, "tokens of a prompt");
  app.add_option("--chunk", options.chunk, "tokens of a prefill step");
  app.add_option("--decode", options.decode, "tokens decoded for each sequence");
  CLI11_PARSE(app, argc, argv);

  const auto level = kernels::ParseCpuLevel(options.level);
  if (!level.has_value() || !kernels::CpuSupports(*level)) {
    std::fprintf(stderr, "level %s is unknown or not supported here\n", options.level.c_str());
    return 1;
  }
  const kernels::NumericsClass numerics = *kernels::ParseNumericsClass(options.numerics);
  auto model = LoadModel(options.model, numerics);
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", std::string(model.status().message()).c_str());
    return 1;
  }
  const int64_t context_tokens = options.prompt + options.decode;
  ForwardRig rig(*model, {.level = *level,
                          .num_threads = options.threads,
                          .context_tokens = context_tokens,
                          .num_blocks = 8 * (context_tokens / kernels::kBlockTokens + 1)});
  std::printf("%s, %s, %s, %d threads, prompt %d in chunks of %d, %d tokens decoded\n",
              options.model.c_str(), options.numerics.c_str(), options.level.c_str(),
              options.threads, options.prompt, options.chunk, options.decode);
  Measure(rig, options, 1);
  Measure(rig, options, 8);
  return 0;
}

}  // namespace
}  // namespace conclave::testing

int main(int argc, char** argv) { return conclave::testing::Main(argc, argv); }
