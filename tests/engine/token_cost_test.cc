#include "services/engine/model_size.h"

#include <string>

#include "gtest/gtest.h"
#include "shared/weights/expert_weights.h"
#include "tests/engine/golden_engine.h"

namespace conclave::engine {
namespace {

class ModelSizeOf : public testing::TestWithParam<const char*> {};

// Against what loading the checkpoint really took.
TEST_P(ModelSizeOf, AgreesWithTheLoadedWeights) {
  for (const auto numerics : {kernels::NumericsClass::kF32, kernels::NumericsClass::kBf16}) {
    const GoldenModel& model = LoadGolden(GetParam(), numerics);
    const weights::ModelConfig& config = model.checkpoint->config();
    const ModelSize size = SizeOf(config);
    const auto loaded = static_cast<double>(model.weights->bytes());
    // Norms, biases, f32 routers and the padding of panels are not counted.
    EXPECT_GE(loaded, 0.9 * static_cast<double>(WeightBytes(size, numerics, false)));
    EXPECT_LE(loaded, 1.35 * static_cast<double>(WeightBytes(size, numerics, false)));
    const int64_t experts = WeightBytes(size, numerics, true) - WeightBytes(size, numerics, false);
    EXPECT_NEAR(static_cast<double>(experts) / static_cast<double>(size.num_experts),
                static_cast<double>(weights::ExpertBytes(config, numerics)),
                0.3 * static_cast<double>(weights::ExpertBytes(config, numerics)));
    EXPECT_LT(size.active_parameters,
              size.engine_parameters + size.num_experts * size.expert_parameters);
    EXPECT_GT(size.active_parameters, 0);
    EXPECT_GT(size.attention_width, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ModelSizeOf,
                         testing::Values("deepseek_v2_lite", "deepseek_v2_full", "deepseek_v3",
                                         "mixtral", "qwen2_moe", "qwen3_moe", "olmoe"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace conclave::engine
