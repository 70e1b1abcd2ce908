#include "services/engine/sequence.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave::engine {
namespace {

constexpr SequenceLimits kLimits{.vocab_size = 100, .context_tokens = 8};
const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInfinity = std::numeric_limits<float>::infinity();

SequenceRequest Good() {
  SequenceRequest request;
  request.prompt_ids = {1, 2, 99};
  request.max_tokens = 4;
  return request;
}

TEST(ValidateSequenceRequest, AcceptsTheEdges) {
  EXPECT_TRUE(ValidateSequenceRequest(Good(), kLimits).ok());
  SequenceRequest request = Good();
  request.prompt_ids.assign(7, 0);
  request.max_tokens = std::numeric_limits<int64_t>::max();  // clipped by the scheduler
  request.min_tokens = request.max_tokens;
  request.sampling.temperature = 0;
  request.sampling.min_p = 1;
  request.sampling.top_logprobs = 0;
  request.stop_ids = {0, 99};
  request.sampling.logit_bias = {{0, -100}, {99, 100}};
  EXPECT_TRUE(ValidateSequenceRequest(request, kLimits).ok());
  request.generated_ids = {5};
  EXPECT_TRUE(ValidateSequenceRequest(request, kLimits).ok());
}

struct BadCase {
  std::string name;
  std::function<void(SequenceRequest&)> spoil;
  std::vector<std::string> named;  // parts of the message
};

class BadRequest : public testing::TestWithParam<BadCase> {};

TEST_P(BadRequest, IsRefusedByName) {
  SequenceRequest request = Good();
  GetParam().spoil(request);
  const absl::Status status = ValidateSequenceRequest(request, kLimits);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  for (const std::string& part : GetParam().named) {
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, BadRequest,
    testing::Values(
        BadCase{"EmptyPrompt", [](auto& r) { r.prompt_ids.clear(); }, {"prompt", "empty"}},
        BadCase{
            "LongPrompt", [](auto& r) { r.prompt_ids.assign(8, 1); }, {"8 tokens", "context 8"}},
        BadCase{
            "LongResume", [](auto& r) { r.generated_ids.assign(6, 1); }, {"9 tokens", "context 8"}},
        BadCase{
            "NegativeId", [](auto& r) { r.prompt_ids[1] = -1; }, {"prompt_ids[1] is -1", "100"}},
        BadCase{
            "IdBeyondVocabulary", [](auto& r) { r.prompt_ids[2] = 100; }, {"prompt_ids[2] is 100"}},
        BadCase{"GeneratedId", [](auto& r) { r.generated_ids = {100}; }, {"generated_ids[0]"}},
        BadCase{"StopId", [](auto& r) { r.stop_ids = {-5}; }, {"stop_ids[0] is -5"}},
        BadCase{"TooManyStopIds",
                [](auto& r) { r.stop_ids.assign(5000, 1); },
                {"stop_ids", "5000", "4096"}},
        BadCase{"NoTokens", [](auto& r) { r.max_tokens = 0; }, {"max_tokens is 0"}},
        BadCase{"NegativeMinimum", [](auto& r) { r.min_tokens = -1; }, {"min_tokens is -1"}},
        BadCase{"MinimumAboveMaximum", [](auto& r) { r.min_tokens = 5; }, {"min_tokens is 5", "4"}},
        BadCase{"NanTemperature",
                [](auto& r) { r.sampling.temperature = kNan; },
                {"temperature is nan"}},
        BadCase{"NegativeTemperature",
                [](auto& r) { r.sampling.temperature = -0.1f; },
                {"temperature"}},
        BadCase{"InfiniteTemperature",
                [](auto& r) { r.sampling.temperature = kInfinity; },
                {"temperature"}},
        BadCase{"ZeroTopP", [](auto& r) { r.sampling.top_p = 0; }, {"top_p is 0"}},
        BadCase{"TopPAboveOne", [](auto& r) { r.sampling.top_p = 1.5f; }, {"top_p is 1.5"}},
        BadCase{"NanTopP", [](auto& r) { r.sampling.top_p = kNan; }, {"top_p is nan"}},
        BadCase{"NegativeTopK", [](auto& r) { r.sampling.top_k = -1; }, {"top_k is -1"}},
        BadCase{"MinP", [](auto& r) { r.sampling.min_p = 1.01f; }, {"min_p"}},
        BadCase{"NoRepetitionPenalty",
                [](auto& r) { r.sampling.repetition_penalty = 0; },
                {"repetition_penalty is 0"}},
        BadCase{"NanRepetitionPenalty",
                [](auto& r) { r.sampling.repetition_penalty = kNan; },
                {"repetition_penalty"}},
        BadCase{"PresencePenalty",
                [](auto& r) { r.sampling.presence_penalty = kInfinity; },
                {"presence_penalty"}},
        BadCase{"FrequencyPenalty",
                [](auto& r) { r.sampling.frequency_penalty = kNan; },
                {"frequency_penalty"}},
        BadCase{"Pace", [](auto& r) { r.sampling.pace = -1; }, {"pace is -1"}},
        BadCase{"NanPace", [](auto& r) { r.sampling.pace = std::nan(""); }, {"pace is nan"}},
        BadCase{"TopLogprobs",
                [](auto& r) { r.sampling.top_logprobs = 129; },
                {"top_logprobs is 129", "128"}},
        BadCase{"BiasedId",
                [](auto& r) {
                  r.sampling.logit_bias = {{100, 1.f}};
                },
                {"bias_ids is 100"}},
        BadCase{"Bias",
                [](auto& r) {
                  r.sampling.logit_bias = {{1, kNan}};
                },
                {"bias of id 1 is nan"}},
        BadCase{"Weight", [](auto& r) { r.tenant_weight = 0; }, {"tenant_weight is 0"}},
        BadCase{"NanWeight", [](auto& r) { r.tenant_weight = kNan; }, {"tenant_weight is nan"}}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace conclave::engine
