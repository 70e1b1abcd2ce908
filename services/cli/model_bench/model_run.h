// One cluster that `conclave bench model` starts and measures: prompts and generations of its own,
// one kind after the other.
//
// Used on one thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/bench_cluster/bench_cluster.h"
#include "services/cli/gateway_client.h"

namespace conclave::cli {

struct ModelRunOptions {
  std::string model;
  int workers = 0;  // 0: experts in the engine's process
  int32_t vocab_size = 0;
  std::vector<std::string> flags;  // further ones of `conclave up`
  const std::atomic<bool>* interrupted = nullptr;
};

// Tokens of one sequence that came together, and when, on any clock.
struct Arrived {
  double seconds = 0;
  int64_t tokens = 0;
};
using Generation = std::vector<Arrived>;  // in their order

// Tokens a second of all together, from the first token of the last to begin to the last one of the
// first to end. Events of a step do not all come at the same moment, so that each sequence's rate
// is taken between its own ones. Nullopt without at least two events of each.
std::optional<double> CommonRate(const std::vector<Generation>& all);

struct Decoded {
  double tokens_per_second = 0;    // of all sequences together
  double context = 0;              // tokens before the new one, on average
  double active_expert_ratio = 0;  // mean over steps and layers; 0 when it is not known
};

// Of engines and workers together, in bytes.
struct ResidentMemory {
  int64_t all = 0;       // a page that several of them have is counted once
  int64_t private_ = 0;  // not of a file
};

class ModelRun {
 public:
  // CANCELLED when interrupted, as all that follows; else errors of BenchCluster.
  static absl::StatusOr<std::unique_ptr<ModelRun>> Start(const ModelRunOptions& options);

  // From the first process to all being ready.
  double start_seconds() const { return start_seconds_; }
  absl::StatusOr<ResidentMemory> Memory() const;

  // Seconds from a prompt of so many random ids, never seen before, to its first token.
  absl::StatusOr<double> Prefill(int64_t tokens);

  // `batch` sequences that begin with the same `context` ids and one of their own, each going on
  // for `tokens` tokens; measured while all of them generate. The common beginning is computed
  // before, once. OUT_OF_RANGE when there was no such moment: the gateway sends an engine no more
  // than its KV cache could hold if nothing was shared.
  absl::StatusOr<Decoded> Decode(int batch, int64_t context, int tokens);

 private:
  ModelRun(const ModelRunOptions& options, std::unique_ptr<BenchCluster> cluster,
           double start_seconds);
  std::vector<int32_t> RandomIds(uint64_t seed, int64_t count) const;
  absl::StatusOr<GenerationResult> Generate(std::vector<int32_t> ids, int max_tokens) const;
  struct ExpertUse {
    double ratios = 0, steps = 0;
  };
  std::optional<ExpertUse> ReadExpertUse() const;

  const ModelRunOptions options_;
  const std::unique_ptr<BenchCluster> cluster_;
  const double start_seconds_;
  const GatewayClient client_;
  uint64_t next_seed_ = 1;
};

}  // namespace conclave::cli
