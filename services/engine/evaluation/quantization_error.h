// How far the weights that are computed with are from those of the checkpoint.
//
// Made and used on one thread, which takes part in the work of the pool.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/thread_pool.h"
#include "shared/weights/quantization_error.h"
#include "shared/weights/stored_model.h"
#include "shared/weights/tensor_reader.h"
#include "shared/weights/weight_formats.h"

namespace conclave::engine {

struct TensorError {
  std::string name;  // as most checkpoints call it
  weights::TensorKind kind = weights::TensorKind::kEmbedding;
  weights::SquaredError error;
};

// Called with the tensors that have been measured and those there are.
using MeasureProgress = std::function<void(int64_t done, int64_t total)>;

// Every tensor of the kinds, in the order in which models are loaded: the matrices of `model`,
// made in `formats` or read from a packed file as serving does, tensor after tensor, against
// `exact`, the checkpoint. Deterministic, whatever the threads. Errors of loading.
absl::StatusOr<std::vector<TensorError>> MeasureQuantization(const weights::StoredModel& model,
                                                             const weights::WeightFormats& formats,
                                                             const weights::TensorReader& exact,
                                                             kernels::ThreadPool& pool,
                                                             const MeasureProgress& progress);

// What a kind comes to.
struct KindError {
  weights::TensorKind kind = weights::TensorKind::kEmbedding;
  int64_t tensors = 0;
  weights::SquaredError error;  // over all weights of the kind
  TensorError worst = {};       // the largest relative error; the first of equal ones
};

// In the order of weights::kTensorKinds, without those that the model does not have.
std::vector<KindError> ByKind(const std::vector<TensorError>& tensors);

}  // namespace conclave::engine
