#include "shared/model/token_cost.h"

#include <string>

#include "gtest/gtest.h"
#include "shared/weights/expert_weights.h"
#include "tests/engine/golden_engine.h"

namespace conclave::engine {
namespace {

class TokenCostOfTest : public testing::TestWithParam<const char*> {};

// Against what loading the checkpoint really took: a token multiplies all of the engine's weights
// but the embedding, and top_k experts a layer.
TEST_P(TokenCostOfTest, AgreesWithTheLoadedWeights) {
  const auto numerics = kernels::NumericsClass::kBf16;
  const GoldenModel& model = LoadGolden(GetParam(), numerics);
  const weights::ModelConfig& config = model.checkpoint->config();
  const double element_bytes = 2;
  double active_bytes = static_cast<double>(model.weights->bytes - model.weights->embedding.size());
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    if (!config.IsMoe(layer)) continue;
    active_bytes += config.moe.top_k * static_cast<double>(weights::ExpertBytes(config, numerics));
  }
  const model::TokenCost cost = model::TokenCostOf(config);
  // Routers are stored in f32, and panels are padded.
  EXPECT_GE(active_bytes, 0.95 * element_bytes * static_cast<double>(cost.parameters));
  EXPECT_LE(active_bytes, 1.35 * element_bytes * static_cast<double>(cost.parameters));
  EXPECT_GT(cost.attention_width, 0);
}

INSTANTIATE_TEST_SUITE_P(All, TokenCostOfTest,
                         testing::Values("deepseek_v2_lite", "deepseek_v2_full", "deepseek_v3",
                                         "mixtral", "qwen2_moe", "qwen3_moe", "olmoe"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace conclave::engine
