#include "shared/weights/random_tensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/weights/stored_checkpoint.h"

namespace conclave::weights {
namespace {

ModelConfig Config() { return *LoadModelConfig(testing::GoldenDir("deepseek_v3"), {}, nullptr); }

std::vector<float> Rows(const RandomTensors& tensors, const char* name, int64_t first,
                        int64_t count, int64_t columns) {
  std::vector<float> values(static_cast<size_t>(count * columns));
  tensors.ReadRows(name, first, count, values);
  return values;
}

TEST(RandomTensorsTest, RowsAreTheSameInWhateverPiecesTheyAreRead) {
  const ModelConfig config = Config();
  const RandomTensors tensors(config);
  const char* name = "model.embed_tokens.weight";
  const std::vector<float> all = Rows(tensors, name, 0, 7, config.hidden);
  std::vector<float> pieces;
  for (const auto& [first, count] : {std::pair{0, 1}, std::pair{1, 3}, std::pair{4, 3}}) {
    const auto piece = Rows(tensors, name, first, count, config.hidden);
    pieces.insert(pieces.end(), piece.begin(), piece.end());
  }
  EXPECT_EQ(all, pieces);
  EXPECT_NE(all, Rows(tensors, "lm_head.weight", 0, 7, config.hidden));
}

TEST(RandomTensorsTest, RowsHaveUnitNormOnAverage) {
  const ModelConfig config = Config();
  const RandomTensors tensors(config);
  double sum = 0, squares = 0;
  constexpr int64_t kRows = 100;
  for (const float value : Rows(tensors, "lm_head.weight", 0, kRows, config.hidden)) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  EXPECT_NEAR(squares / kRows, 1, 0.05);
  EXPECT_NEAR(sum / std::sqrt(kRows * static_cast<double>(config.hidden)), 0, 0.5);
}

TEST(RandomTensorsTest, NormsAreOneAndBiasesZero) {
  const ModelConfig config = Config();
  const RandomTensors tensors(config);
  for (const float value : Rows(tensors, "model.norm.weight", 0, config.hidden, 1)) {
    EXPECT_EQ(value, 1);
  }
  const char* bias = "model.layers.1.mlp.gate.e_score_correction_bias";
  for (const float value : Rows(tensors, bias, 0, config.moe.num_experts, 1)) EXPECT_EQ(value, 0);
}

}  // namespace
}  // namespace conclave::weights
