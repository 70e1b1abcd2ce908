// What `conclave bench model` measured, and how it is told.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "services/cli/machine_bench/rates.h"

namespace conclave::cli {

// Of one cluster.
struct SpeedOf {
  double tokens_per_second = 0;
  double bound_tokens_per_second = 0;
  double share_of_bound = 0;  // median of the rounds'
};

struct ModelBenchRow {
  const char* what = "";  // "prefill", "decode"
  int batch = 1;
  int64_t tokens = 0;   // of a prefill
  int64_t context = 0;  // of a decode
  SpeedOf in_process = {};
  std::optional<SpeedOf> workers = {};
  bool bound_by_memory = false;
  double active_expert_ratio = 0;  // of a decode, in process; 0: unknown
};

// Start and memory of one cluster.
struct ModelBenchCost {
  double start_seconds = 0;
  int64_t resident_bytes = 0;  // engines and workers, shared pages once
  int64_t private_bytes = 0;   // of these, not of the model's file
};

struct ModelBenchReport {
  std::string model, formats, cpu_level;
  int threads = 0, num_workers = 0, rounds = 0;
  int64_t model_bytes = 0;
  double active_bytes = 0;  // that a token alone reads
  MachineRates rates;       // reading: the median of what was measured in between
  std::vector<ModelBenchRow> rows;
  bool complete = false;  // it was not ended early
  ModelBenchCost in_process;
  std::optional<ModelBenchCost> workers;

  std::string ToTable() const;
  std::string ToJson() const;
};

}  // namespace conclave::cli
