#include "shared/weights/quantization_error.h"

#include <gtest/gtest.h>

#include <vector>

namespace conclave::weights {
namespace {

TEST(QuantizationErrorTest, RelativeErrorIsOfRoots) {
  SquaredError error;
  error.Add(std::vector<float>{3, 4}, std::vector<float>{3, 3.5f});
  EXPECT_DOUBLE_EQ(error.Relative(), 0.1);
  error.Add(SquaredError{.errors = 0, .weights = 75});
  EXPECT_DOUBLE_EQ(error.Relative(), 0.05);
  EXPECT_EQ(SquaredError().Relative(), 0);
}

TEST(QuantizationErrorTest, KindsAreAddedApart) {
  KindErrors one, other;
  one.Of(TensorKind::kFfn) = {.errors = 1, .weights = 4};
  other.Of(TensorKind::kFfn) = {.errors = 0, .weights = 12};
  other.Of(TensorKind::kLmHead) = {.errors = 4, .weights = 4};
  one.Add(other);
  EXPECT_EQ(one.Of(TensorKind::kFfn).Relative(), 0.25);
  EXPECT_EQ(one.Of(TensorKind::kLmHead).Relative(), 1);
  EXPECT_EQ(one.Of(TensorKind::kEmbedding).weights, 0);
}

TEST(QuantizationErrorTest, KindsFollowFromNames) {
  EXPECT_EQ(TensorKindOf("model.embed_tokens.weight", true), TensorKind::kEmbedding);
  EXPECT_EQ(TensorKindOf("model.embed_tokens.weight", false), TensorKind::kLmHead);
  EXPECT_EQ(TensorKindOf("lm_head.weight", false), TensorKind::kLmHead);
  EXPECT_EQ(TensorKindOf("model.layers.3.self_attn.q_proj.weight", false), TensorKind::kAttention);
  EXPECT_EQ(TensorKindOf("model.layers.3.mlp.up_proj.weight", false), TensorKind::kFfn);
  EXPECT_EQ(TensorKindOf("model.layers.3.mlp.shared_experts.up_proj.weight", false),
            TensorKind::kFfn);
  EXPECT_EQ(TensorKindOf("model.layers.3.mlp.experts.7.up_proj.weight", false),
            TensorKind::kExperts);
  EXPECT_EQ(TensorKindOf("model.layers.3.mlp.gate.weight", false), std::nullopt);
  EXPECT_EQ(TensorKindOf("model.layers.3.mlp.shared_expert_gate.weight", false), std::nullopt);
}

}  // namespace
}  // namespace conclave::weights
