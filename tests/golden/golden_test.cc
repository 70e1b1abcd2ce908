// Checkpoints against the outputs that transformers gives for them: logits, routes, hidden states
// and greedy tokens, in f32 and bf16. Tolerances: tests/golden/README.md. Further folders:
// CONCLAVE_GOLDENS.

#include "tests/support/golden.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/forward_rig.h"

namespace conclave::testing {
namespace {

using kernels::NumericsClass;

constexpr double kLogitTolerance = 1e-3;  // f32: the contract of tests/golden/README.md
constexpr double kExpertWeightTolerance =
    1e-4;  // relative to the largest weight of the row: V2's reach 16
constexpr double kHiddenTolerance = 1e-3;  // relative to the largest element of the stage
constexpr double kYardsticks = 1.5;        // bf16: how much worse than another bf16 implementation

// Keeps what the forward pass shows, chunk after chunk.
class Recorder final : public engine::ForwardObserver {
 public:
  void OnHidden(std::string_view stage, int32_t layer,
                kernels::MatrixView<const float> rows) override {
    const std::string name =
        std::string(stage) == "layer" ? "layer" + std::to_string(layer) : std::string(stage);
    std::vector<float>& kept = hidden[name];
    for (int64_t row = 0; row < rows.rows; ++row)
      kept.insert(kept.end(), rows.Row(row), rows.Row(row) + rows.cols);
  }
  void OnRoutes(int32_t layer, kernels::MatrixView<const int32_t> ids,
                kernels::MatrixView<const float> weights) override {
    for (int64_t row = 0; row < ids.rows; ++row) {
      std::vector<std::pair<int32_t, float>> route;
      for (int64_t j = 0; j < ids.cols; ++j)
        route.emplace_back(ids.Row(row)[j], weights.Row(row)[j]);
      std::sort(route.begin(), route.end());
      routes[layer].push_back(std::move(route));
    }
  }

  std::map<std::string, std::vector<float>> hidden;
  std::map<int32_t, std::vector<std::vector<std::pair<int32_t, float>>>>
      routes;  // layer -> position -> ascending ids
};

// The larger one; NaN if either is.
double Larger(double a, double b) { return std::isnan(a) || a > b ? a : b; }

double MaxError(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error = Larger(error, std::abs(double{a[i]} - double{b[i]}));
  }
  return error;
}

double MaxMagnitude(const std::vector<float>& a) {
  double magnitude = 0;
  for (const float x : a) magnitude = std::max(magnitude, double{std::abs(x)});
  return magnitude;
}

int64_t ArgMax(const float* row, int64_t size) { return std::max_element(row, row + size) - row; }

// How one class compares over all prompts.
struct Comparison {
  double max_error = 0;
  double sum_error = 0;
  double sum_magnitude = 0;  // of the reference's logits: the error of zeros
  int64_t num_logits = 0;
  // Of the positions before the first expert chosen differently in their prompt.
  struct SameRoute {
    int64_t position = 0;
    double max_error = 0;
    double sum_error = 0;
  };
  std::vector<SameRoute> before_routing_differs;
  int64_t positions = 0;
  int64_t same_argmax = 0;
  int64_t same_routes = 0;
  int64_t routes = 0;

  double mean_error() const { return sum_error / static_cast<double>(num_logits); }
  double mean_error_before_routing_differs() const {
    double sum = 0;
    for (const SameRoute& same : before_routing_differs) sum += same.sum_error;
    const double logits_a_position =
        static_cast<double>(num_logits) / static_cast<double>(positions);
    return sum / (logits_a_position * static_cast<double>(before_routing_differs.size()));
  }
  // Over the earliest `count` of them.
  double MaxErrorBeforeRoutingDiffers(int64_t count) const {
    std::vector<SameRoute> earliest = before_routing_differs;
    std::stable_sort(earliest.begin(), earliest.end(), [](const SameRoute& a, const SameRoute& b) {
      return a.position < b.position;
    });
    double max_error = 0;
    for (const SameRoute& same : earliest) {
      if (count-- > 0) max_error = Larger(max_error, same.max_error);
    }
    return max_error;
  }
};

class GoldenTest : public ::testing::TestWithParam<std::filesystem::path> {
 protected:
  void SetUp() override {
    auto golden = Golden::Open(GetParam());
    ASSERT_TRUE(golden.ok()) << golden.status();
    golden_ = std::make_unique<Golden>(*std::move(golden));
  }

  // Null, and a failure of the test, when it cannot be loaded.
  std::shared_ptr<const LoadedModel> Load(NumericsClass numerics) const {
    auto model = LoadModel(GetParam(), numerics);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *model : nullptr;
  }

  // Room for the longest prompt and what follows it.
  RigOptions Options() const {
    int64_t tokens = 0;
    for (const GoldenPrompt& prompt : golden_->prompts()) {
      tokens = std::max(tokens, static_cast<int64_t>(prompt.ids.size() + prompt.greedy_ids.size()));
    }
    return {.context_tokens = tokens, .num_blocks = tokens / kernels::kBlockTokens + 1};
  }

  void Compare(size_t prompt, const std::vector<float>& logits, const Recorder& seen,
               Comparison& result) const {
    const int64_t positions = static_cast<int64_t>(golden_->prompts()[prompt].ids.size());
    const std::string name = "prompt" + std::to_string(prompt);
    const std::vector<float> wanted = golden_->Floats(name + ".logits");
    ASSERT_EQ(logits.size(), wanted.size());
    const int64_t vocab = static_cast<int64_t>(wanted.size()) / positions;

    std::vector<bool> same(static_cast<size_t>(positions), true);
    for (const int32_t layer : golden_->moe_layers()) {
      const std::vector<int32_t> ids =
          golden_->Ints(name + ".layer" + std::to_string(layer) + ".expert_ids");
      const auto& routes = seen.routes.at(layer);
      ASSERT_EQ(static_cast<int64_t>(routes.size()), positions);
      const size_t top_k = ids.size() / static_cast<size_t>(positions);
      for (int64_t p = 0; p < positions; ++p) {
        ASSERT_EQ(routes[p].size(), top_k);
        bool equal = true;
        for (size_t j = 0; j < top_k; ++j)
          equal = equal && routes[p][j].first == ids[p * top_k + j];
        same[p] = same[p] && equal;
        ++result.routes;
        result.same_routes += equal;
      }
    }
    bool before = true;
    for (int64_t p = 0; p < positions; ++p) {
      before = before && same[p];
      double max_error = 0;
      double sum_error = 0;
      for (int64_t i = p * vocab; i < (p + 1) * vocab; ++i) {
        const double error = std::abs(double{logits[i]} - double{wanted[i]});
        max_error = Larger(max_error, error);
        sum_error += error;
      }
      result.max_error = Larger(result.max_error, max_error);
      result.sum_error += sum_error;
      for (int64_t i = p * vocab; i < (p + 1) * vocab; ++i) {
        result.sum_magnitude += std::abs(double{wanted[i]});
      }
      if (before) result.before_routing_differs.push_back({p, max_error, sum_error});
      result.same_argmax += ArgMax(&logits[p * vocab], vocab) == ArgMax(&wanted[p * vocab], vocab);
    }
    result.num_logits += positions * vocab;
    result.positions += positions;
  }

  // All prompts, in chunks of so many tokens (0: whole).
  Comparison CompareAll(NumericsClass numerics, int64_t chunk) {
    Comparison result;
    const auto model = Load(numerics);
    EXPECT_NE(model, nullptr);
    if (model == nullptr) return result;
    ForwardRig rig(model, Options());
    for (size_t prompt = 0; prompt < golden_->prompts().size(); ++prompt) {
      Recorder seen;
      const std::vector<float> logits = rig.LogitsOf(golden_->prompts()[prompt].ids, chunk, &seen);
      Compare(prompt, logits, seen, result);
    }
    return result;
  }

  void CompareExpertWeights(size_t prompt, const Recorder& seen) const {
    for (const int32_t layer : golden_->moe_layers()) {
      const std::vector<float> wanted = golden_->Floats(
          "prompt" + std::to_string(prompt) + ".layer" + std::to_string(layer) + ".expert_weights");
      std::vector<float> found;
      for (const auto& route : seen.routes.at(layer)) {
        for (const auto& [id, weight] : route) found.push_back(weight);
      }
      ASSERT_EQ(found.size(), wanted.size());
      EXPECT_LE(MaxError(found, wanted),
                kExpertWeightTolerance * std::max(1.0, MaxMagnitude(wanted)))
          << "prompt " << prompt << " layer " << layer;
    }
  }

  void CompareHidden(const Recorder& seen) const {
    for (const auto& [stage, found] : seen.hidden) {
      const std::vector<float> wanted =
          golden_->Floats("prompt" + std::to_string(golden_->hidden_prompt()) + ".hidden." + stage);
      ASSERT_EQ(found.size(), wanted.size()) << stage;
      EXPECT_LE(MaxError(found, wanted), kHiddenTolerance * std::max(1.0, MaxMagnitude(wanted)))
          << stage;
    }
  }

  void Print(NumericsClass numerics, const Comparison& c) const {
    std::printf("| %-17s | %-4s | %.2e | %.2e | %5.1f %% | %5.1f %% | %.2e | %zu / %lld |\n",
                GetParam().filename().c_str(),
                std::string(kernels::NumericsClassName(numerics)).c_str(), c.max_error,
                c.mean_error(),
                100.0 * static_cast<double>(c.same_argmax) / static_cast<double>(c.positions),
                100.0 * static_cast<double>(c.same_routes) / static_cast<double>(c.routes),
                c.MaxErrorBeforeRoutingDiffers(c.positions), c.before_routing_differs.size(),
                static_cast<long long>(c.positions));
  }

  std::unique_ptr<Golden> golden_;
};

TEST_P(GoldenTest, F32GivesTheReferencesLogitsRoutesAndHiddenStates) {
  const auto model = Load(NumericsClass::kF32);
  ASSERT_NE(model, nullptr);
  ForwardRig rig(model, Options());
  Comparison result;
  for (size_t prompt = 0; prompt < golden_->prompts().size(); ++prompt) {
    Recorder seen;
    const std::vector<float> logits = rig.LogitsOf(golden_->prompts()[prompt].ids, 0, &seen);
    Compare(prompt, logits, seen, result);
    CompareExpertWeights(prompt, seen);
    if (prompt == golden_->hidden_prompt()) CompareHidden(seen);
  }
  Print(NumericsClass::kF32, result);
  EXPECT_LE(result.max_error, kLogitTolerance);
  EXPECT_EQ(result.same_routes, result.routes);
  EXPECT_EQ(static_cast<int64_t>(result.before_routing_differs.size()), result.positions);
}

TEST_P(GoldenTest, F32DecodesTheReferencesTokens) {
  const auto model = Load(NumericsClass::kF32);
  ASSERT_NE(model, nullptr);
  ForwardRig rig(model, Options());
  for (size_t prompt = 0; prompt < golden_->prompts().size(); ++prompt) {
    const GoldenPrompt& golden = golden_->prompts()[prompt];
    EXPECT_EQ(rig.GreedyOf(golden.ids, static_cast<int>(golden.greedy_ids.size())),
              golden.greedy_ids)
        << "prompt " << prompt;
  }
}

TEST_P(GoldenTest, F32DecodingGivesTheReferencesLogits) {
  const Comparison result = CompareAll(NumericsClass::kF32, 1);
  EXPECT_LE(result.max_error, kLogitTolerance);
  EXPECT_EQ(result.same_routes, result.routes);
}

TEST_P(GoldenTest, Bf16IsAsCloseToTheReferenceAsTheYardstick) {
  const Comparison result = CompareAll(NumericsClass::kBf16, 0);
  Print(NumericsClass::kBf16, result);
  const GoldenYardstick& yardstick = golden_->yardstick();
  EXPECT_LE(result.mean_error(), kYardsticks * yardstick.mean_error);
  EXPECT_LE(result.mean_error_before_routing_differs(),
            kYardsticks * yardstick.mean_error_before_routing_differs);
  // A maximum grows with the number of positions: as many as the yardstick has.
  EXPECT_LE(result.MaxErrorBeforeRoutingDiffers(yardstick.positions_before_routing_differs),
            kYardsticks * yardstick.max_error_before_routing_differs);
}

// These models are tiny and their weights random, so that quantising spoils them more than trained
// ones: logits that are all zero would have an error of 1.
TEST_P(GoldenTest, IntegersAreNearTheReference) {
  for (const auto& [numerics, most] :
       {std::pair{NumericsClass::kInt8, 0.1}, {NumericsClass::kInt4, 0.5}}) {
    const Comparison result = CompareAll(numerics, 0);
    Print(numerics, result);
    const double relative = result.sum_error / result.sum_magnitude;
    RecordProperty(std::string(kernels::NumericsClassName(numerics)), std::to_string(relative));
    EXPECT_LE(relative, most) << kernels::NumericsClassName(numerics);
    const double same =
        static_cast<double>(result.same_argmax) / static_cast<double>(result.positions);
    EXPECT_GE(same, numerics == NumericsClass::kInt8 ? 0.7 : 0.3)
        << kernels::NumericsClassName(numerics);
  }
}

TEST_P(GoldenTest, TheConfigOfTransformers5GivesTheSameModel) {
  if (!std::filesystem::exists(GetParam() / "transformers5/config.json")) {
    GTEST_SKIP() << GetParam() << " has no config.json of transformers 5";
  }
  // A folder with the other config over the same weights.
  const std::filesystem::path dir =
      std::filesystem::path(::testing::TempDir()) /
      ("golden5-" + std::to_string(::getpid()) + "-" + GetParam().filename().string());
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  for (const auto& entry : std::filesystem::directory_iterator(GetParam())) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("model") && name.find(".safetensors") != std::string::npos) {
      std::filesystem::create_symlink(std::filesystem::absolute(entry.path()), dir / name);
    }
  }
  std::filesystem::copy_file(GetParam() / "transformers5/config.json", dir / "config.json");

  const auto model = Load(NumericsClass::kF32);
  const auto model5 = LoadModel(dir, NumericsClass::kF32);
  ASSERT_NE(model, nullptr);
  ASSERT_TRUE(model5.ok()) << model5.status();
  EXPECT_EQ(weights::NormalisedConfigText(model->config()),
            weights::NormalisedConfigText((*model5)->config()));
  EXPECT_EQ(model->checkpoint->Fingerprint("f32"), (*model5)->checkpoint->Fingerprint("f32"));
  ForwardRig rig(model, Options());
  ForwardRig rig5(*model5, Options());
  const auto& ids = golden_->prompts().back().ids;
  EXPECT_EQ(rig.LogitsOf(ids, 0), rig5.LogitsOf(ids, 0));
  std::filesystem::remove_all(dir);
}

// Families of the reference set that are not served yet are checked where configs are.
std::vector<std::filesystem::path> ServedFolders() {
  std::vector<std::filesystem::path> served;
  for (const std::filesystem::path& folder : GoldenFolders()) {
    std::ifstream stream(folder / "config.json");
    const nlohmann::json config = nlohmann::json::parse(stream, nullptr, false);
    const std::string type = config.is_object() ? config.value("model_type", "") : "";
    if (type == "gpt_oss" || type == "glm4_moe") continue;
    served.push_back(folder);
  }
  return served;
}

std::string TestName(const ::testing::TestParamInfo<std::filesystem::path>& info) {
  std::string name = std::to_string(info.index) + "_" + info.param.filename().string();
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(Goldens, GoldenTest, ::testing::ValuesIn(ServedFolders()), TestName);

class TableHeader : public ::testing::Environment {
 public:
  void SetUp() override {
    std::printf(
        "| model | class | max error | mean error | same argmax | same experts | max error before "
        "routing differs | "
        "positions before |\n");
  }
};
const auto* const kTableHeader = ::testing::AddGlobalTestEnvironment(new TableHeader);

}  // namespace
}  // namespace conclave::testing
