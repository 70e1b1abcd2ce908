// Routed experts in the kernels' order: what an expert worker, or an engine that runs experts
// itself, holds.
//
// Experts are loaded one by one, so a worker maps and packs only its own. Immutable once loaded.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/ffn.h"
#include "kernels/matrix.h"
#include "kernels/thread_pool.h"
#include "shared/weights/matrix_source.h"
#include "shared/weights/packed_buffer.h"
#include "shared/weights/stored_model.h"
#include "shared/weights/weight_formats.h"

namespace conclave::weights {

struct ExpertId {
  int32_t layer = 0;  // index of the main layer, dense layers counted
  int32_t expert = 0;
  friend auto operator<=>(const ExpertId&, const ExpertId&) = default;
};

// One expert. Owns its memory, or keeps the packed file open that has it.
struct ExpertWeights {
  ExpertId id;
  kernels::FfnWeights ffn;
  PackedBuffer buffer;
  std::shared_ptr<const PackedModel> mapped;
  size_t bytes = 0;
  SquaredError error;  // of a row in 64 of each matrix; of a packed file, as it says
};

// Bytes that one routed expert takes in the kernels' order, the same for all experts of a model.
size_t ExpertBytes(const ModelConfig& config, const WeightFormats& formats);

// Loads on the threads of `pool`; null: on the calling thread alone. Error NOT_FOUND if the model
// has no such expert.
absl::StatusOr<std::shared_ptr<const ExpertWeights>> LoadExpert(
    const StoredModel& model, const WeightFormats& formats, ExpertId id,
    kernels::ThreadPool* pool = nullptr);

// Asks `source` for the matrices of an expert that exists, in the order of packed files; the caller
// runs it.
kernels::FfnWeights AddExpert(const ModelConfig& config, const WeightFormats& formats, ExpertId id,
                              MatrixSource& source);

}  // namespace conclave::weights
