// How far weights that are computed with are from those that are stored, by what they are for.
//
// Values.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace conclave::weights {

// What a tensor is for. Norms, biases and the router, which are f32 in every format, are of none.
enum class TensorKind : uint8_t { kEmbedding, kAttention, kFfn, kExperts, kLmHead };
inline constexpr TensorKind kTensorKinds[] = {TensorKind::kEmbedding, TensorKind::kAttention,
                                              TensorKind::kFfn, TensorKind::kExperts,
                                              TensorKind::kLmHead};

// "embedding", "attention", "ffn" (dense and shared), "experts" (routed), "lm_head".
std::string_view TensorKindName(TensorKind kind);

// Of a matrix by its canonical name. `is_table`: it is held row-major, as the embedding is, which a
// tied LM head has the name of. nullopt for what is f32 in every format.
std::optional<TensorKind> TensorKindOf(std::string_view name, bool is_table);

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

// By kind; the weights of a kind that nothing is known of are 0.
class KindErrors {
 public:
  SquaredError& Of(TensorKind kind) { return errors_[static_cast<size_t>(kind)]; }
  const SquaredError& Of(TensorKind kind) const { return errors_[static_cast<size_t>(kind)]; }
  void Add(const KindErrors& other);

 private:
  std::array<SquaredError, std::size(kTensorKinds)> errors_;
};

}  // namespace conclave::weights
