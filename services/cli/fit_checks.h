// Whether a model, the settings and the memory of this machine go together, by the computations of
// the services themselves: what weights take, what KV cache an engine plans, where the controller
// places experts. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/cli/checks.h"
#include "shared/options/options.h"
#include "shared/weights/model_config.h"
#include "shared/weights/stored_model.h"
#include "shared/weights/weight_formats.h"

namespace conclave::cli {

// All weights in some formats.
struct ClassBytes {
  weights::WeightFormats formats;
  int64_t bytes = 0;          // one copy
  int64_t in_all = 0;         // of all engines and workers together
  std::string numerics = {};  // the setting that chooses these formats, where it is not their label

  std::string text() const;  // "int8 31 GiB"
};

// What `up` puts on this machine.
struct MemoryDemand {
  weights::WeightFormats formats;   // those that are set, or the stored model's own
  std::vector<ClassBytes> classes;  // that may be chosen, the most precise first
  int64_t weight_bytes = 0;         // of all engines and workers together, in these formats
  int64_t expert_bytes = 0;         // of these, routed experts
  int64_t kv_block_bytes = 0;
  int64_t context_tokens = 0;  // the setting, or the model's
};

// The formats that a stored model has of its own: a packed file's, or those of a checkpoint that
// stores matrices as int4.
struct OwnFormats {
  struct Choice {
    std::string numerics;  // the setting
    weights::WeightFormats formats;
  };

  weights::WeightFormats formats;  // under the settings as they are
  bool mapped = true;              // all processes of a machine share a packed file's memory
  // What settings make of a checkpoint, the most precise first; a packed file leaves no choice.
  std::vector<Choice> choices = {};

  // nullopt for a checkpoint that has no say in `formats`.
  static std::optional<OwnFormats> Of(const weights::StoredModel& stored,
                                      const weights::WeightFormats& formats);
};

MemoryDemand DemandOf(const weights::ModelConfig& config, const AllOptions& options,
                      const std::optional<OwnFormats>& own = std::nullopt);

// RESOURCE_EXHAUSTED unless the workers that `up` starts have room for all experts under
// expert.memory. OK when workers of other machines may bring more: the controller listens beyond
// loopback.
absl::Status CheckExpertsFit(const weights::ModelConfig& config, const AllOptions& options,
                             const std::optional<OwnFormats>& own = std::nullopt);

// The engines' own refusal of engine.context and engine.kv_memory with what is free beside the
// weights; OK where they would start.
absl::Status CheckKvFits(const weights::ModelConfig& config, const AllOptions& options,
                         int64_t available_bytes,
                         const std::optional<OwnFormats>& own = std::nullopt);

// The memory check of `doctor`, of one full context at least.
Check CheckFits(const MemoryDemand& demand, int64_t available_bytes, int64_t total_bytes);

}  // namespace conclave::cli
