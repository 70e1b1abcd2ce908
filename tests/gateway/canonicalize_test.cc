#include "services/gateway/canonicalize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "shared/rpc/status.h"

namespace conclave::gateway {
namespace {

constexpr EngineLimits kLimits{.context_tokens = 100, .vocab_size = 4096};

class CanonicalizeTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto model = TextModel::Load(CONCLAVE_SOURCE_DIR "/models/tales", "tales");
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *model;
  }
  static void TearDownTestSuite() { model_.reset(); }

  static GenerationInput Input() {
    GenerationInput input;
    input.prompt = TokenPromptInput{.ids = {5, 6, 7}};
    return input;
  }
  static absl::StatusOr<Generation> Run(GenerationInput input) {
    absl::StatusOr<CheckedRequest> checked =
        CheckRequest(std::move(input), *model_, kLimits, FieldNames());
    if (!checked.ok()) return checked.status();
    return EncodePrompt(*std::move(checked), *model_, kLimits, FieldNames(), nullptr);
  }
  // The field that the error names.
  static std::string RefusedField(const SamplingInput& sampling) {
    GenerationInput input = Input();
    input.sampling = sampling;
    const absl::Status status = Run(std::move(input)).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    const rpc::ErrorDetails details = rpc::DetailsOf(status);
    return details.fields.empty() ? "" : details.fields[0].field;
  }

  static std::shared_ptr<const TextModel> model_;
};
std::shared_ptr<const TextModel> CanonicalizeTest::model_;

TEST_F(CanonicalizeTest, FillsDefaultsFromTheCheckpointThenOpenAi) {
  const auto generation = Run(Input());
  ASSERT_TRUE(generation.ok()) << generation.status();
  EXPECT_FLOAT_EQ(generation->sampling.temperature, 0.7F);  // generation_config.json
  EXPECT_FLOAT_EQ(generation->sampling.top_p, 0.9F);
  EXPECT_EQ(generation->sampling.top_k, 0);
  EXPECT_EQ(generation->max_tokens, 97);
  EXPECT_EQ(generation->num_choices, 1);
  EXPECT_EQ(generation->stop_ids, std::vector<int32_t>{2});
  EXPECT_EQ(generation->model, "tales");
  EXPECT_EQ(generation->request_id.size(), 32U);
}

TEST_F(CanonicalizeTest, TheRequestGoesBeforeEveryDefault) {
  GenerationInput input = Input();
  input.sampling.temperature = 0;
  input.sampling.top_p = 1;
  input.sampling.max_tokens = 5;
  input.sampling.stop_ids = {9, 2, 9};
  input.sampling.seed = UINT64_MAX;
  input.request_id = "mine";
  input.api_max_tokens = 16;
  const auto generation = Run(input);
  ASSERT_TRUE(generation.ok()) << generation.status();
  EXPECT_EQ(generation->sampling.temperature, 0);
  EXPECT_EQ(generation->sampling.top_p, 1);
  EXPECT_EQ(generation->max_tokens, 5);
  EXPECT_EQ(generation->stop_ids, (std::vector<int32_t>{2, 9}));
  EXPECT_EQ(generation->seed, UINT64_MAX);
  EXPECT_EQ(generation->request_id, "mine");
  input.sampling.max_tokens.reset();
  input.sampling.ignore_eos = true;
  input.sampling.stop_ids.clear();
  const auto second = Run(input);
  EXPECT_EQ(second->max_tokens, 16);
  EXPECT_TRUE(second->stop_ids.empty());
}

TEST_F(CanonicalizeTest, DrawsADifferentSeedEachTimeWithinTheLimit) {
  GenerationInput input = Input();
  input.largest_drawn_seed = (uint64_t{1} << 53) - 1;
  std::set<uint64_t> seeds;
  for (int i = 0; i < 50; ++i) {
    const auto generation = Run(input);
    EXPECT_LT(generation->seed, uint64_t{1} << 53);
    seeds.insert(generation->seed);
  }
  EXPECT_EQ(seeds.size(), 50U);
}

TEST_F(CanonicalizeTest, RefusesValuesOutOfRangeByName) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const auto with = [](auto member, auto value) {
    SamplingInput sampling;
    sampling.*member = value;
    return sampling;
  };
  for (const double bad : {-0.1, 2.1, kNan, kInfinity}) {
    EXPECT_EQ(RefusedField(with(&SamplingInput::temperature, bad)), "temperature");
  }
  for (const double bad : {0.0, 1.1, kNan})
    EXPECT_EQ(RefusedField(with(&SamplingInput::top_p, bad)), "top_p");
  EXPECT_EQ(RefusedField(with(&SamplingInput::min_p, -1.0)), "min_p");
  EXPECT_EQ(RefusedField(with(&SamplingInput::repetition_penalty, 0.0)), "repetition_penalty");
  EXPECT_EQ(RefusedField(with(&SamplingInput::presence_penalty, 2.5)), "presence_penalty");
  EXPECT_EQ(RefusedField(with(&SamplingInput::frequency_penalty, -2.5)), "frequency_penalty");
  EXPECT_EQ(RefusedField(with(&SamplingInput::pace, 0.0)), "pace");
  EXPECT_EQ(RefusedField(with(&SamplingInput::top_k, -2)), "top_k");
  EXPECT_EQ(RefusedField(with(&SamplingInput::max_tokens, 0)), "max_tokens");
  EXPECT_EQ(RefusedField(with(&SamplingInput::min_tokens, -1)), "min_tokens");
  EXPECT_EQ(RefusedField(with(&SamplingInput::top_logprobs, 21)), "top_logprobs");
  EXPECT_EQ(RefusedField(with(&SamplingInput::num_choices, 1'000'000)), "num_choices");
  EXPECT_EQ(RefusedField(with(&SamplingInput::num_choices, 0)), "num_choices");
  EXPECT_EQ(RefusedField(with(&SamplingInput::stop, std::vector<std::string>{""})), "stop");
  EXPECT_EQ(RefusedField(with(&SamplingInput::stop, std::vector<std::string>(17, "x"))), "stop");
  EXPECT_EQ(RefusedField(with(&SamplingInput::stop_ids, std::vector<int64_t>{4096})), "stop_ids");
  using Biases = std::vector<std::pair<int64_t, double>>;
  EXPECT_EQ(RefusedField(with(&SamplingInput::logit_bias, Biases{{-1, 0}})), "logit_bias");
  EXPECT_EQ(RefusedField(with(&SamplingInput::logit_bias, Biases{{1, 101}})), "logit_bias");
  EXPECT_EQ(RefusedField(with(&SamplingInput::logit_bias, Biases{{1, kNan}})), "logit_bias");
  EXPECT_EQ(RefusedField(with(&SamplingInput::logit_bias, Biases{{1, 1}, {1, 2}})), "logit_bias");
  SamplingInput crossed;
  crossed.max_tokens = 2;
  crossed.min_tokens = 3;
  EXPECT_EQ(RefusedField(crossed), "min_tokens");
}

TEST_F(CanonicalizeTest, RefusesPromptsThatCannotBe) {
  GenerationInput input = Input();
  input.prompt = TokenPromptInput{};
  EXPECT_TRUE(absl::IsInvalidArgument(Run(input).status()));
  input.prompt = TokenPromptInput{.ids = {1, 4096}};
  EXPECT_NE(Run(input).status().message().find("4096"), absl::string_view::npos);
  input.prompt = TokenPromptInput{.ids = {-1}};
  EXPECT_TRUE(absl::IsInvalidArgument(Run(input).status()));
  input.prompt = TextPromptInput{.text = "\xff\xfe"};
  EXPECT_TRUE(absl::IsInvalidArgument(Run(input).status()));
  input.prompt = ChatPromptInput{.messages_json = "[]"};
  EXPECT_FALSE(Run(input).ok());
}

TEST_F(CanonicalizeTest, ATooLongPromptNamesBothNumbers) {
  GenerationInput input = Input();
  input.prompt = TokenPromptInput{.ids = std::vector<int32_t>(99, 5)};
  const auto longest = Run(input);
  ASSERT_TRUE(longest.ok());
  EXPECT_EQ(longest->max_tokens, 1);
  input.prompt = TokenPromptInput{.ids = std::vector<int32_t>(100, 5)};
  const absl::Status status = Run(input).status();
  const rpc::ErrorDetails details = rpc::DetailsOf(status);
  EXPECT_EQ(details.reason, "CONTEXT_LENGTH_EXCEEDED");
  EXPECT_EQ(details.metadata.at("prompt_tokens"), "100");
  EXPECT_EQ(details.metadata.at("context_tokens"), "100");
  EXPECT_EQ(rpc::ToHttp(status).code, "context_length_exceeded");
}

TEST_F(CanonicalizeTest, RefusesOtherModelsAndMalformedIds) {
  GenerationInput input = Input();
  input.model = "gpt-4";
  EXPECT_TRUE(absl::IsNotFound(Run(input).status()));
  EXPECT_EQ(rpc::ToHttp(Run(input).status()).code, "model_not_found");
  for (const std::string& id :
       {std::string("a b"), std::string("a\n"), std::string(129, 'x'), std::string("\xc3\xa9")}) {
    GenerationInput named = Input();
    named.request_id = id;
    EXPECT_TRUE(absl::IsInvalidArgument(Run(named).status())) << id;
  }
}

TEST_F(CanonicalizeTest, TheDefinitionHashSeesEverythingButTheSeed) {
  GenerationInput input = Input();
  input.sampling.seed = 1;
  const std::string base = DefinitionHash(*Run(input));
  EXPECT_EQ(base.size(), 32U);
  input.sampling.seed = 2;
  EXPECT_EQ(DefinitionHash(*Run(input)), base);
  input.sampling.stop = {"x"};
  EXPECT_NE(DefinitionHash(*Run(input)), base);
  input = Input();
  input.prompt = TokenPromptInput{.ids = {5, 6, 8}};
  EXPECT_NE(DefinitionHash(*Run(input)), base);
}

TEST(TraceparentTest, PassesOnOnlyWhatIsWellFormed) {
  const std::string good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  EXPECT_EQ(ValidTraceparent(good), good);
  for (const std::string& bad :
       {std::string(), std::string("00-x"),
        std::string("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"),
        std::string("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        std::string("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
        std::string("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"), good + "x"}) {
    EXPECT_EQ(ValidTraceparent(bad), "") << bad;
  }
}

}  // namespace
}  // namespace conclave::gateway
