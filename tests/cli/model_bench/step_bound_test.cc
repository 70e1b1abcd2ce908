#include "services/cli/model_bench/step_bound.h"

#include <gtest/gtest.h>

#include "services/cli/pack/known_shapes.h"
#include "shared/weights/engine_weights.h"
#include "shared/weights/expert_weights.h"

namespace conclave::cli {
namespace {

using kernels::NumericsClass;
using kernels::WeightType;

weights::ModelConfig Lite() {
  std::vector<std::string> warnings;
  return *weights::ParseModelConfig("lite", std::string(KnownShape("deepseek-v2-lite")), {},
                                    &warnings);
}

MachineRates Rates(double read, double operations) {
  return {.read = read,
          .operations = {{WeightType::kF32, operations},
                         {WeightType::kBf16, operations},
                         {WeightType::kInt8, operations},
                         {WeightType::kInt4, operations}}};
}

TEST(StepBoundTest, CountsWhatEnginesAndWorkersHold) {
  const weights::ModelConfig config = Lite();
  for (const auto numerics : {NumericsClass::kBf16, NumericsClass::kInt8, NumericsClass::kInt4}) {
    const ModelWork work = ModelWorkOf(config, numerics);
    double bytes = work.head.bytes;
    for (const ModelWork::Matrix& matrix : work.matrices) bytes += matrix.bytes;
    const double embedding = 102400.0 * 2048 * 2;
    EXPECT_EQ(bytes + embedding, static_cast<double>(weights::EngineBytes(config, numerics)));
    EXPECT_EQ(work.expert.bytes, static_cast<double>(weights::ExpertBytes(config, numerics)));
    EXPECT_EQ(work.moe_layers, 26);
    EXPECT_EQ(work.experts, 64);
    EXPECT_EQ(work.experts_a_row, 6);
    EXPECT_EQ(work.head.multiply_adds, 102400.0 * 2048);
  }
}

TEST(StepBoundTest, ARowAloneIsReadAndManyAreMultiplied) {
  const ModelWork work = ModelWorkOf(Lite(), NumericsClass::kInt8);
  const MachineRates rates = Rates(50e9, 2e12);
  const StepBound one =
      BoundOf(work, {.rows = 1, .head_rows = 1, .active_expert_ratio = 6.0 / 64}, rates);
  EXPECT_TRUE(one.by_memory());
  EXPECT_DOUBLE_EQ(one.seconds, one.reading_seconds);
  // 2.45 billion weights in 8.5 bits each.
  EXPECT_NEAR(one.seconds, 2.6e9 / 50e9, 0.05e9 / 50e9);
  const StepBound many =
      BoundOf(work, {.rows = 10'000, .head_rows = 1, .active_expert_ratio = 1}, rates);
  EXPECT_FALSE(many.by_memory());
  EXPECT_NEAR(many.seconds, 10'000 * 2 * 2.24e9 / 2e12, 0.5);
}

TEST(StepBoundTest, ExpertsCountAsFarAsTheyAreChosenAndAttentionByItsContext) {
  const ModelWork work = ModelWorkOf(Lite(), NumericsClass::kInt8);
  const MachineRates slow_memory = Rates(1e9, 1e18);
  const auto seconds = [&](double ratio, double attended, const MachineRates& rates) {
    return BoundOf(work,
                   {.rows = 1, .head_rows = 1, .active_expert_ratio = ratio, .attended = attended},
                   rates)
        .seconds;
  };
  EXPECT_NEAR(seconds(1, 0, slow_memory) - seconds(0.5, 0, slow_memory),
              26 * 32 * work.expert.bytes / 1e9, 1e-6);
  const MachineRates slow_cores = Rates(1e18, 1e9);
  EXPECT_NEAR(seconds(0, 1000, slow_cores) - seconds(0, 0, slow_cores),
              2 * 1000.0 * 27 * 16 * (2 * 512 + 64) / 1e9, 1e-6);
  // A level without an instruction of its own is not bound by one.
  EXPECT_EQ(seconds(0, 1000, Rates(1e9, 0)), seconds(0, 0, Rates(1e9, 0)));
}

}  // namespace
}  // namespace conclave::cli
