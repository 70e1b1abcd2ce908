#include "services/engine/layers/moe_layer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/ffn.h"
#include "kernels/matmul.h"
#include "services/engine/forward.h"
#include "tests/support/forward_rig.h"

namespace conclave::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

constexpr int64_t kRows = 3;

// Experts that all answer zeros. Each call changes the layer's input, so that what is computed of
// it tells when: before Begin it is 1 everywhere, until Finish 2, and 3 afterwards.
class DispatchThatMarksTime final : public ExpertDispatch {
 public:
  explicit DispatchThatMarksTime(std::vector<float>* input) : input_(*input) {
    std::fill(input_.begin(), input_.end(), 1.0f);
  }

  void Begin(const ExpertCall& call) override {
    calls.push_back("begin");
    call_ = call;
    std::fill(input_.begin(), input_.end(), 2.0f);
  }
  ExpertOutcome Finish() override {
    calls.push_back("finish");
    const auto bytes = static_cast<size_t>(call_.num_tokens * call_.top_k * call_.hidden) *
                       kernels::RowTypeBytes(call_.row_type);
    std::fill_n(call_.results, bytes, std::byte{0});
    std::fill(input_.begin(), input_.end(), 3.0f);
    return {.failed = {}, .expert_us = 7};
  }
  std::vector<std::pair<int32_t, int32_t>> Missing() const override { return {}; }

  std::vector<std::string> calls;

 private:
  std::vector<float>& input_;
  ExpertCall call_;
};

class MoeLayerTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto model =
        testing::LoadModel(std::string(CONCLAVE_SOURCE_DIR) + "/tests/golden/" + GetParam(),
                           kernels::NumericsClass::kBf16);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    while (!model_->config().IsMoe(layer_)) ++layer_;
    ForwardSequence sequence{.ids = ids_,
                             .first_position = 0,
                             .blocks = blocks_,
                             .num_logits = 1,
                             .origin = {},
                             .traceparent = {}};
    rows_.Reset({&sequence, 1});
  }

  int64_t hidden() const { return model_->config().hidden; }
  std::vector<float> Buffer() const {
    return std::vector<float>(static_cast<size_t>(kRows * hidden()));
  }
  // What the shared expert makes of rows that are `value` everywhere.
  std::vector<float> SharedOf(float value) {
    const weights::MoeLayerWeights& layer = *model_->engine->layers[layer_].moe;
    std::vector<float> input = Buffer(), output = Buffer();
    std::fill(input.begin(), input.end(), value);
    kernels::FeedForward(*layer.shared, {input.data(), kRows, hidden(), hidden()},
                         {output.data(), kRows, hidden(), hidden()}, context_);
    if (!layer.shared_gate.empty()) {
      std::vector<float> scores(kRows);
      kernels::Matmul(layer.shared_gate, {input.data(), kRows, hidden(), hidden()},
                      {scores.data(), kRows, 1, 1}, context_);
      kernels::ScaleBySigmoid(scores, {output.data(), kRows, hidden(), hidden()}, context_);
    }
    return output;
  }

  const std::vector<int32_t> ids_ = {1, 2, 3}, blocks_ = {0};
  std::shared_ptr<const testing::LoadedModel> model_;
  int32_t layer_ = 0;
  StepRows rows_;
  kernels::Context context_{kernels::BestCpuLevel(), 1};
};

TEST_P(MoeLayerTest, ComputesTheSharedExpertWhileTheRowsAreAway) {
  std::vector<float> input = Buffer(), output = Buffer();
  DispatchThatMarksTime dispatch(&input);
  MoeLayer layer(*model_->engine, dispatch, context_);
  const int64_t expert_us = layer.Run(
      {.layer = layer_, .rows = &rows_, .traceparent = {}, .observer = nullptr},
      {input.data(), kRows, hidden(), hidden()}, {output.data(), kRows, hidden(), hidden()});
  EXPECT_THAT(dispatch.calls, ElementsAre("begin", "finish"));
  EXPECT_EQ(expert_us, 7);
  // The experts' zeros add nothing.
  ASSERT_NE(SharedOf(2), SharedOf(1));
  ASSERT_NE(SharedOf(2), SharedOf(3));
  EXPECT_THAT(output, ElementsAreArray(SharedOf(2)));
}

// With one shared expert; with one whose output a gate scales.
INSTANTIATE_TEST_SUITE_P(Families, MoeLayerTest, ::testing::Values("deepseek_v2_lite", "qwen2_moe"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace conclave::engine
