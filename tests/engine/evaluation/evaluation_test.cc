// Whole evaluations over the reference checkpoints (tests/golden).
#include "services/engine/evaluation/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <span>
#include <string>

#include "tests/engine/evaluation/golden_models.h"
#include "tests/support/golden.h"
#include "tests/support/temp_dir.h"

namespace conclave::engine {
namespace {

using ::testing::HasSubstr;

// Logits of f32 are within 1e-3 of the goldens' (tests/golden/README.md), and so a mean of
// -log(p) within twice that.
constexpr double kF32Tolerance = 2e-3;

// The longest prompt: more than two steps of the evaluated model take at once.
struct LongPrompt {
  explicit LongPrompt(const std::string& family)
      : golden(*testing::Golden::Open(GoldenDir(family))) {
    for (size_t i = 0; i < golden.prompts().size(); ++i) {
      if (golden.prompts()[i].ids.size() > ids().size()) index = i;
    }
  }
  const std::vector<int32_t>& ids() const { return golden.prompts()[index].ids; }
  std::vector<float> logits() const {
    return golden.Floats("prompt" + std::to_string(index) + ".logits");
  }
  testing::Golden golden;
  size_t index = 0;
};

EvaluationRequest RequestFor(const std::string& family, const std::string& format) {
  EvaluationRequest request;
  request.model = GoldenDir(family).string();
  request.format = format;
  request.ids = LongPrompt(family).ids();
  request.threads = 1;
  return request;
}

nlohmann::json Evaluated(const EvaluationRequest& request) {
  const auto told = Evaluate(request, [](std::string_view, int64_t, int64_t) {});
  EXPECT_TRUE(told.ok()) << told.status();
  return told.ok() ? *told : nlohmann::json();
}

absl::Status Refused(const EvaluationRequest& request) {
  return Evaluate(request, [](std::string_view, int64_t, int64_t) {}).status();
}

TEST(EvaluationTest, PerplexityIsThatOfTheReferencesLogits) {
  for (const char* family : {"olmoe", "deepseek_v3", "qwen3_moe"}) {
    const LongPrompt prompt(family);
    ASSERT_GT(prompt.ids().size(), 128u);
    const std::vector<float> logits = prompt.logits();
    const size_t vocab = logits.size() / prompt.ids().size();
    double nll = 0;
    for (size_t i = 0; i + 1 < prompt.ids().size(); ++i) {
      const std::span<const float> row(logits.data() + i * vocab, vocab);
      double sum = 0;
      for (const float logit : row) sum += std::exp(double{logit});
      nll -= std::log(std::exp(double{row[static_cast<size_t>(prompt.ids()[i + 1])]}) / sum);
    }
    const auto told = Evaluated(RequestFor(family, "f32"))["text"];
    EXPECT_EQ(told["tokens"], prompt.ids().size() - 1);
    EXPECT_EQ(told["windows"], 1);
    EXPECT_NEAR(std::log(told["perplexity"].get<double>()),
                nll / static_cast<double>(prompt.ids().size() - 1), kF32Tolerance)
        << family;
  }
}

TEST(EvaluationTest, EachWindowIsATextOfItsOwn) {
  EvaluationRequest request = RequestFor("olmoe", "f32");
  request.ids.resize(80);
  request.context = 40;
  const auto both = Evaluated(request)["text"];
  EXPECT_EQ(both["tokens"], 78);
  EXPECT_EQ(both["windows"], 2);
  const std::vector<int32_t> ids = request.ids;
  request.ids.assign(ids.begin(), ids.begin() + 40);
  const double first = Evaluated(request)["text"]["perplexity"];
  request.ids.assign(ids.begin() + 40, ids.end());
  const double second = Evaluated(request)["text"]["perplexity"];
  EXPECT_NEAR(both["perplexity"].get<double>() / std::sqrt(first * second), 1, 1e-12);
  request.ids = ids;
  request.context = 80;
  EXPECT_NE(Evaluated(request)["text"]["perplexity"], both["perplexity"]);
}

TEST(EvaluationTest, AFormatIsNoDistanceFromItself) {
  const auto told = Evaluated(RequestFor("deepseek_v3", "bf16"));
  EXPECT_EQ(told["reference"], "bf16");
  EXPECT_EQ(told["text"]["mean_kl_nats"], 0.0);
  EXPECT_EQ(told["text"]["p99_kl_nats"], 0.0);
  EXPECT_EQ(told["text"]["perplexity_ratio"], 1.0);
  EXPECT_EQ(told["text"]["perplexity"], told["text"]["reference_perplexity"]);
  EXPECT_EQ(told["text"]["same_argmax_ratio"], 1.0);
  EXPECT_EQ(told["weights"]["worst_relative_error"], 0.0);
}

TEST(EvaluationTest, FewerBitsAreFartherFromTheReference) {
  double kl = 0, error = 0, same = 0;
  for (const char* format : {"int8", "int4"}) {
    const auto told = Evaluated(RequestFor("olmoe", format));
    EXPECT_GT(told["text"]["mean_kl_nats"].get<double>(), 2 * kl) << format;
    EXPECT_GE(told["text"]["p99_kl_nats"], told["text"]["mean_kl_nats"]);
    EXPECT_GT(told["weights"]["worst_relative_error"].get<double>(), 2 * error) << format;
    kl = told["text"]["mean_kl_nats"];
    error = told["weights"]["worst_relative_error"];
    same = told["text"]["same_argmax_ratio"];
  }
  EXPECT_LT(same, 1);
}

TEST(EvaluationTest, TellsTheErrorOfEveryTensor) {
  EvaluationRequest request = RequestFor("olmoe", "int4");
  request.ids.clear();
  const auto weights = Evaluated(request)["weights"];
  std::map<std::string, int64_t> tensors_of;
  std::map<std::string, double> worst_of;
  std::set<std::string> names;
  for (const auto& tensor : weights["tensors"]) {
    const std::string kind = tensor["kind"];
    EXPECT_TRUE(names.insert(tensor["tensor"]).second) << tensor;
    EXPECT_GE(tensor["relative_error"].get<double>(), 0.0);
    ++tensors_of[kind];
    worst_of[kind] = std::max(worst_of[kind], tensor["relative_error"].get<double>());
  }
  EXPECT_TRUE(names.contains("model.layers.1.mlp.experts.3.down_proj.weight"));
  ASSERT_EQ(tensors_of.size(), weights["kinds"].size());
  for (const auto& kind : weights["kinds"]) {
    EXPECT_EQ(tensors_of[kind["kind"]], kind["tensors"]) << kind;
    EXPECT_EQ(worst_of[kind["kind"]], kind["worst_relative_error"]) << kind;
  }
}

TEST(EvaluationTest, ThreadsAndTheLevelChangeNothing) {
  EvaluationRequest request = RequestFor("olmoe", "int8");
  const auto told = Evaluated(request);
  request.threads = 3;
  EXPECT_EQ(Evaluated(request), told);
  request.threads = 1;
  request.cpu_level = "reference";
  EXPECT_EQ(Evaluated(request), told);
}

TEST(EvaluationTest, APackedFileIsComparedWithItsCheckpoint) {
  const testing::TempDir folder;
  const std::string file = (folder.path() / "olmoe.conclave").string();
  PackGolden(*OpenGolden("olmoe"), "int8+int4:32", file);
  EvaluationRequest request = RequestFor("olmoe", "int8+int4:32");
  const auto told = Evaluated(request);
  request.model = file;
  request.format = "";
  auto alone = Evaluated(request);
  EXPECT_EQ(alone["format"], "int8+int4:32");
  EXPECT_EQ(alone["text"]["perplexity"], told["text"]["perplexity"]);
  EXPECT_TRUE(alone["reference"].is_null());
  EXPECT_TRUE(alone["text"]["mean_kl_nats"].is_null());
  EXPECT_TRUE(alone["weights"].is_null());
  request.checkpoint = GoldenDir("olmoe").string();
  EXPECT_EQ(Evaluated(request), told);

  request.checkpoint = GoldenDir("olmoe_clip").string();
  EXPECT_EQ(Refused(request).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(Refused(request).message()), HasSubstr("was not made from"));
  request.checkpoint = file;
  EXPECT_THAT(std::string(Refused(request).message()), HasSubstr("is a packed file"));
  request.checkpoint = "";
  request.format = "int8";
  EXPECT_THAT(std::string(Refused(request).message()), HasSubstr("is packed as int8+int4:32"));
}

TEST(EvaluationTest, WithoutATextTheWeightsAreCompared) {
  EvaluationRequest request = RequestFor("olmoe", "int4");
  request.ids.clear();
  const auto told = Evaluated(request);
  EXPECT_TRUE(told["text"].is_null());
  EXPECT_GT(told["weights"]["worst_relative_error"].get<double>(), 0.01);
}

TEST(EvaluationTest, EveryWindowBeginsAsPromptsDo) {
  EvaluationRequest request = RequestFor("olmoe", "f32");
  request.ids.resize(20);
  request.bos = request.ids.front();
  request.ids.erase(request.ids.begin());
  const double with = Evaluated(request)["text"]["perplexity"];
  request.ids.insert(request.ids.begin(), *request.bos);
  request.bos.reset();
  EXPECT_EQ(Evaluated(request)["text"]["perplexity"], with);
}

TEST(EvaluationTest, QuestionsAreAnsweredAsTheReferenceContinuesThem) {
  const LongPrompt golden("qwen3_moe");
  EvaluationRequest request = RequestFor("qwen3_moe", "f32");
  request.against = "f32";
  request.ids.clear();
  std::vector<std::vector<int32_t>> wanted;
  // More than are computed at once.
  while (request.prompts.size() < 20) {
    for (const testing::GoldenPrompt& prompt : golden.golden.prompts()) {
      request.prompts.push_back(prompt.ids);
      wanted.push_back(prompt.greedy_ids);
    }
  }
  request.answer_tokens = static_cast<int64_t>(wanted.front().size());
  auto told = Evaluated(request);
  EXPECT_TRUE(told["text"].is_null());
  EXPECT_EQ(told["answers"], nlohmann::json(wanted));
  EXPECT_EQ(told["reference_answers"], told["answers"]);

  request.stop_ids = {wanted[1][3]};
  for (std::vector<int32_t>& ids : wanted) {
    ids.erase(std::ranges::find(ids, request.stop_ids.front()), ids.end());
  }
  ASSERT_LE(wanted[1].size(), 3u);
  EXPECT_EQ(Evaluated(request)["answers"], nlohmann::json(wanted));

  request.prompts.resize(1);
  request.answer_tokens = 100'000;
  EXPECT_THAT(std::string(Refused(request).message()), HasSubstr("question 1 of the exam"));
}

TEST(EvaluationTest, RequestsThatContradictTheModelAreRefused) {
  const auto refused = [](auto change) {
    EvaluationRequest request = RequestFor("olmoe", "int8");
    change(request);
    const absl::Status status = Refused(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refused([](EvaluationRequest& r) { r.format = "int3"; }), HasSubstr("int3"));
  EXPECT_THAT(refused([](EvaluationRequest& r) { r.against = "fp8"; }), HasSubstr("fp8"));
  EXPECT_THAT(refused([](EvaluationRequest& r) { r.context = 4097; }), HasSubstr("4096"));
  EXPECT_THAT(refused([](EvaluationRequest& r) { r.context = 1; }), HasSubstr("from 2"));
  EXPECT_THAT(refused([](EvaluationRequest& r) { r.ids[3] = 1 << 20; }), HasSubstr("1048576"));
  EXPECT_THAT(refused([](EvaluationRequest& r) { r.ids[3] = -1; }), HasSubstr("-1"));
  EXPECT_THAT(refused([](EvaluationRequest& r) { r.ids.resize(1); }), HasSubstr("single token"));
  EXPECT_THAT(refused([](EvaluationRequest& r) { r.checkpoint = "x"; }),
              HasSubstr("a checkpoint itself"));
  EXPECT_THAT(refused([](EvaluationRequest& r) { r.cpu_level = "sse9"; }), HasSubstr("sse9"));
}

TEST(EvaluationTest, RequestsAreRead) {
  const auto request = ParseEvaluationRequest(nlohmann::json::parse(
      R"({"model": "m", "format": "int4", "ids": [3, 4], "bos": 1, "context": 9, "threads": 2})"));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->model, "m");
  EXPECT_EQ(request->format, "int4");
  EXPECT_EQ(request->against, "bf16");
  EXPECT_EQ(request->ids, (std::vector<int32_t>{3, 4}));
  EXPECT_EQ(request->bos, 1);
  EXPECT_EQ(request->context, 9);
  EXPECT_EQ(request->threads, 2);
  for (const char* bad : {"{}", "[]", "7", R"({"model": 7})", R"({"model": "m", "ids": "x"})"}) {
    EXPECT_EQ(ParseEvaluationRequest(nlohmann::json::parse(bad)).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

}  // namespace
}  // namespace conclave::engine
