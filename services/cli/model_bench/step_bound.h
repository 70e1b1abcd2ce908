// The time that a step of a model takes on a machine if it reads and multiplies at full speed.
//
// Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/matrix.h"
#include "services/cli/machine_bench/rates.h"
#include "shared/weights/model_config.h"
#include "shared/weights/weight_formats.h"

namespace conclave::cli {

// What a model's step is made of.
struct ModelWork {
  struct Matrix {
    kernels::WeightType type = kernels::WeightType::kF32;
    double bytes = 0;
    double multiply_adds = 0;  // of a row
  };
  std::vector<Matrix> matrices;  // of all layers, routed experts and LM head apart
  Matrix head;
  Matrix expert;                       // the three matrices of a routed one together
  double moe_layers = 0;               // with routed experts
  double experts = 0;                  // of a layer
  double experts_a_row = 0;            // in each of these layers
  double attention_multiply_adds = 0;  // of a row and a token that it attends to, over all layers
  kernels::WeightType attention_type = kernels::WeightType::kBf16;
};
ModelWork ModelWorkOf(const weights::ModelConfig& config, const weights::WeightFormats& formats);

struct StepWork {
  double rows = 0;
  double head_rows = 0;            // whose logits are asked for
  double active_expert_ratio = 0;  // of a layer's experts, those with a row: [0, 1]
  double attended = 0;             // tokens that a row attends to, summed over the rows
};

struct StepBound {
  double seconds = 0;
  double reading_seconds = 0;  // of them, where reading takes longer than multiplying
  bool by_memory() const { return 2 * reading_seconds >= seconds; }
};

// Each matrix is read once, by rows that are all there, and takes the longer of reading and
// multiplying (a program that reads one matrix while it multiplies by another could be faster);
// attention multiplies, and its cache is not counted. An unknown rate bounds nothing. Activations,
// norms and everything between processes are free.
StepBound BoundOf(const ModelWork& work, const StepWork& step, const MachineRates& rates);

}  // namespace conclave::cli
