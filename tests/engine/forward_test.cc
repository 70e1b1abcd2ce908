// What a step gives beside the right bits: which rows get logits, what an observer sees, and how a
// sequence leaves.

#include "services/engine/forward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "tests/support/forward_rig.h"

namespace conclave::testing {
namespace {

using kernels::NumericsClass;

std::vector<int32_t> Ids(int32_t first, int count) {
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back((first + 37 * i) % 480);
  return ids;
}

class Recorder final : public engine::ForwardObserver {
 public:
  void OnHidden(std::string_view stage, int32_t layer,
                kernels::MatrixView<const float> rows) override {
    stages.push_back(std::string(stage) + " " + std::to_string(layer) + " " +
                     std::to_string(rows.rows));
  }
  void OnRoutes(int32_t layer, kernels::MatrixView<const int32_t> ids,
                kernels::MatrixView<const float>) override {
    std::vector<std::set<int32_t>>& kept = routes[layer];
    for (int64_t row = 0; row < ids.rows; ++row)
      kept.emplace_back(ids.Row(row), ids.Row(row) + ids.cols);
  }

  std::vector<std::string> stages;
  std::map<int32_t, std::vector<std::set<int32_t>>> routes;  // layer -> row -> experts
};

class ForwardTest : public ::testing::Test {
 protected:
  // A copy of its own: tests release experts.
  std::shared_ptr<const LoadedModel> Load(const std::string& folder,
                                          NumericsClass numerics = NumericsClass::kBf16) {
    auto model = LoadModel(CONCLAVE_SOURCE_DIR "/tests/golden/" + folder, numerics);
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }
};

TEST_F(ForwardTest, GivesLogitsOfTheLastTokensOnly) {
  const auto model = Load("deepseek_v3");
  ForwardRig rig(model, {});
  const std::vector<int32_t> a = Ids(3, 10), b = Ids(8, 5), c = Ids(1, 4);
  const std::vector<float> whole_a = rig.LogitsOf(a, 0);
  const std::vector<float> whole_c = rig.LogitsOf(c, 0);
  const int64_t vocab = model->config().vocab_size;

  const auto& output = rig.Step({{.sequence = 0, .ids = a, .num_logits = 3},
                                 {.sequence = 1, .ids = b, .num_logits = 0},
                                 {.sequence = 2, .ids = c, .num_logits = 1}});
  std::vector<float> wanted(whole_a.end() - 3 * vocab, whole_a.end());
  wanted.insert(wanted.end(), whole_c.end() - vocab, whole_c.end());
  EXPECT_EQ(output.logits, wanted);
}

TEST_F(ForwardTest, StepWithoutLogitsFillsTheCache) {
  const auto model = Load("qwen2_moe");
  ForwardRig rig(model, {});
  const std::vector<int32_t> ids = Ids(5, 20);
  const std::vector<float> whole = rig.LogitsOf(ids, 0);
  const auto first = std::span(ids).first(19);
  EXPECT_TRUE(rig.Step({{.sequence = 0, .ids = first, .num_logits = 0}}).logits.empty());
  const auto& output = rig.Step({{.sequence = 0, .ids = std::span(ids).last(1), .num_logits = 1}});
  EXPECT_EQ(output.logits,
            std::vector<float>(whole.end() - model->config().vocab_size, whole.end()));
}

TEST_F(ForwardTest, StepOfNothingGivesNothing) {
  ForwardRig rig(Load("mixtral"), {});
  const auto& output = rig.Step({});
  EXPECT_TRUE(output.logits.empty());
  EXPECT_TRUE(output.status.empty());
}

TEST_F(ForwardTest, ObserverSeesEveryLayerAndChangesNoBits) {
  const auto model = Load("deepseek_v2_lite");
  ForwardRig rig(model, {});
  const std::vector<int32_t> ids = Ids(2, 6);
  const std::vector<float> plain = rig.Step({{.sequence = 0, .ids = ids, .num_logits = 2}}).logits;
  rig.Forget(0);
  Recorder seen;
  EXPECT_EQ(rig.Step({{.sequence = 0, .ids = ids, .num_logits = 2}}, &seen).logits, plain);
  EXPECT_THAT(seen.stages, ::testing::ElementsAre("embed -1 6", "layer 0 6", "layer 1 6",
                                                  "layer 2 6", "layer 3 6", "final_norm -1 2"));
  EXPECT_EQ(seen.routes.size(), 3u);  // the first layer is dense
  for (const auto& [layer, rows] : seen.routes) {
    ASSERT_EQ(rows.size(), 6u);
    for (const auto& experts : rows)
      EXPECT_EQ(static_cast<int32_t>(experts.size()), model->config().moe.top_k);
  }
}

// For every layer: an expert is taken away that some sequences of the batch use there and others
// never do.
TEST_F(ForwardTest, SequenceWithoutAnExpertLeavesAndTheOthersKeepTheirBits) {
  for (const std::string folder : {"deepseek_v3", "mixtral", "qwen2_moe"}) {
    SCOPED_TRACE(folder);
    const auto model = Load(folder);
    const int64_t vocab = model->config().vocab_size;
    std::vector<std::vector<int32_t>> prompts;
    for (int s = 0; s < 6; ++s) prompts.push_back(Ids(11 * s, 1 + s % 3));

    std::vector<Recorder> seen(prompts.size());
    std::vector<std::vector<float>> alone;
    {
      ForwardRig rig(model, {});
      for (size_t s = 0; s < prompts.size(); ++s)
        alone.push_back(rig.LogitsOf(prompts[s], 0, &seen[s]));
    }
    int num_mixed = 0;
    for (const auto& [layer, unused] : seen[0].routes) {
      for (int32_t expert = 0; expert < model->config().moe.num_experts; ++expert) {
        std::vector<bool> uses;
        for (const Recorder& recorder : seen) {
          const auto& rows = recorder.routes.at(layer);
          uses.push_back(std::any_of(rows.begin(), rows.end(),
                                     [&](const auto& row) { return row.contains(expert); }));
        }
        if (std::count(uses.begin(), uses.end(), true) % static_cast<int64_t>(uses.size()) == 0)
          continue;
        ++num_mixed;
        model->experts->Release({layer, expert});
        ForwardRig rig(model, {});
        std::vector<ForwardRig::Part> parts;
        for (size_t s = 0; s < prompts.size(); ++s) {
          parts.push_back({.sequence = static_cast<int>(s),
                           .ids = prompts[s],
                           .num_logits = static_cast<int32_t>(prompts[s].size())});
        }
        Recorder all_rows;  // with an observer, the last layer too runs for every row
        const auto& output = rig.Step(parts, &all_rows);
        const float* rows = output.logits.data();
        for (size_t s = 0; s < prompts.size(); ++s) {
          const size_t size = prompts[s].size() * static_cast<size_t>(vocab);
          if (uses[s]) {
            EXPECT_EQ(output.status[s].code(), absl::StatusCode::kUnavailable);
            EXPECT_THAT(std::string(output.status[s].message()),
                        ::testing::HasSubstr("layer " + std::to_string(layer) + " expert " +
                                             std::to_string(expert)));
            EXPECT_EQ(rig.num_tokens(static_cast<int>(s)), 0);
          } else {
            EXPECT_TRUE(output.status[s].ok()) << output.status[s];
            EXPECT_EQ(std::vector<float>(rows, rows + size), alone[s]);
          }
          rows += size;
        }
        // Once the expert is back, the sequences that left are computed as if nothing had happened.
        ASSERT_TRUE(model->experts->Load({layer, expert}).ok());
        for (size_t s = 0; s < prompts.size(); ++s) {
          if (!uses[s]) continue;
          const auto& again = rig.Step({parts[s]});
          ASSERT_TRUE(again.status[0].ok());
          EXPECT_EQ(again.logits, alone[s]);
        }
      }
    }
    EXPECT_GT(num_mixed, 3);
  }
}

TEST_F(ForwardTest, StepInWhichEverySequenceFailsEnds) {
  const auto model = Load("olmoe");
  for (const weights::ExpertId id : model->experts->Held()) {
    if (id.layer == 1) model->experts->Release(id);
  }
  ForwardRig rig(model, {});
  const std::vector<int32_t> a = Ids(1, 4), b = Ids(2, 9);
  const auto& output = rig.Step({{.sequence = 0, .ids = a}, {.sequence = 1, .ids = b}});
  EXPECT_EQ(output.status[0].code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(output.status[1].code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(output.logits.size(), 2u * static_cast<size_t>(model->config().vocab_size));
}

TEST_F(ForwardTest, BrokenPreconditionsEndTheProcess) {
  const auto model = Load("mixtral");
  ForwardRig rig(model, {.context_tokens = 40});
  const std::vector<int32_t> beyond = {1, model->config().vocab_size};
  const std::vector<int32_t> long_prompt = Ids(0, 41);
  EXPECT_DEATH(rig.Step({{.sequence = 0, .ids = beyond}}), "check failed.*vocab_size");
  EXPECT_DEATH(rig.Step({{.sequence = 0, .ids = long_prompt}}), "check failed.*num_positions");
  const auto two = std::span(long_prompt).first(2);
  EXPECT_DEATH(rig.Step({{.sequence = 0, .ids = two, .num_logits = 3}}),
               "check failed.*num_logits");
}

TEST_F(ForwardTest, KvBlockBytesCoverAllLayers) {
  const auto model = Load("deepseek_v2_lite", NumericsClass::kF32);
  const weights::ModelConfig& config = model->config();
  const kernels::KvShape shape = engine::KvShapeOf(config, NumericsClass::kF32);
  EXPECT_EQ(shape.key_dim, 64 + 16);
  EXPECT_EQ(shape.value_dim, 64);
  EXPECT_TRUE(shape.value_is_key_prefix);
  EXPECT_EQ(engine::KvBlockBytesOf(config, NumericsClass::kF32),
            config.num_layers * static_cast<int64_t>(kernels::KvBlockBytes(shape)));
}

}  // namespace
}  // namespace conclave::testing
