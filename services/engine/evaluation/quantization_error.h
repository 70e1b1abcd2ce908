// How far the weights that are computed with are from those of the checkpoint.
//
// Made and used on one thread, which takes part in the work of the pool.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/thread_pool.h"
#include "shared/weights/stored_model.h"
#include "shared/weights/tensor_reader.h"
#include "shared/weights/weight_formats.h"

namespace conclave::engine {

// What a tensor is for. Norms, biases and the router, which are f32 in every format, are of none.
enum class TensorKind : uint8_t { kEmbedding, kAttention, kFfn, kExperts, kLmHead };
inline constexpr TensorKind kTensorKinds[] = {TensorKind::kEmbedding, TensorKind::kAttention,
                                              TensorKind::kFfn, TensorKind::kExperts,
                                              TensorKind::kLmHead};
// "embedding", "attention", "ffn" (dense and shared), "experts" (routed), "lm_head".
std::string_view TensorKindName(TensorKind kind);

// Sums over weights w and what was made of them, q, in double.
struct SquaredError {
  double errors = 0;   // (w - q)^2
  double weights = 0;  // w^2

  // sqrt(errors / weights), the relative error in the root mean square; 0 where there is none.
  double Relative() const;
  void Add(const SquaredError& other);
  // Of one more row or part of it. The spans are of one length.
  void Add(std::span<const float> exact, std::span<const float> quantized);
};

struct TensorError {
  std::string name;  // as checkpoints call it
  TensorKind kind = TensorKind::kEmbedding;
  SquaredError error;
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
  TensorKind kind = TensorKind::kEmbedding;
  int64_t tensors = 0;
  SquaredError error;      // over all weights of the kind
  TensorError worst = {};  // the largest relative error; the first of equal ones
};

// In the order of kTensorKinds, without those that the model does not have.
std::vector<KindError> ByKind(const std::vector<TensorError>& tensors);

}  // namespace conclave::engine
