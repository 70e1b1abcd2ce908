#include "services/engine/dispatch/local_dispatch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "shared/weights/checkpoint.h"

namespace conclave::engine {
namespace {

using kernels::RowType;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr const char* kFolder =
    CONCLAVE_SOURCE_DIR "/tests/golden/mixtral";  // 3 layers, 8 experts, top 2

class LocalDispatchTest : public ::testing::Test {
 protected:
  static constexpr int64_t kTokens = 5;
  static constexpr int32_t kTopK = 2;

  void SetUp() override {
    auto checkpoint = weights::Checkpoint::Open(kFolder, {});
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    set_ =
        std::make_unique<experts::ExpertSet>(*std::move(checkpoint), kernels::NumericsClass::kBf16);
    for (int32_t layer = 0; layer < set_->config().num_layers; ++layer) {
      for (int32_t expert = 0; expert < 8; ++expert) ASSERT_TRUE(set_->Load({layer, expert}).ok());
    }
    hidden_ = set_->config().hidden;
    std::mt19937_64 random(3);
    for (int64_t i = 0; i < kTokens * hidden_; ++i) {
      rows_.push_back(kernels::ToBf16(
          static_cast<float>(static_cast<int64_t>(random() % 2001) - 1000) * 1e-3f));
    }
    results_.resize(static_cast<size_t>(kTokens * kTopK * hidden_));
    dispatch_ = std::make_unique<LocalDispatch>(set_.get(), &clock_, &context_);
  }

  ExpertOutcome Call(std::span<const int32_t> ids) {
    dispatch_->Begin({.layer = 1,
                      .num_tokens = kTokens,
                      .hidden = hidden_,
                      .top_k = kTopK,
                      .row_type = RowType::kBf16,
                      .rows = reinterpret_cast<const std::byte*>(rows_.data()),
                      .expert_ids = ids,
                      .results = reinterpret_cast<std::byte*>(results_.data()),
                      .origins = origins_,
                      .traceparent = {}});
    return dispatch_->Finish();
  }

  // Whether result row token * kTopK + j is what the expert alone gives for the token.
  bool IsResultOf(int64_t token, int64_t j, int32_t expert) {
    std::vector<kernels::bf16> wanted(static_cast<size_t>(hidden_));
    const std::byte* input = reinterpret_cast<const std::byte*>(rows_.data() + token * hidden_);
    std::byte* output = reinterpret_cast<std::byte*>(wanted.data());
    const int32_t experts[] = {expert}, first_row[] = {0, 1};
    experts::ExpertScratch scratch;
    EXPECT_TRUE(experts::ComputeExpertRows(*set_,
                                           {.layer = 1,
                                            .type = RowType::kBf16,
                                            .hidden = hidden_,
                                            .experts = experts,
                                            .first_row = first_row,
                                            .inputs = {&input, 1},
                                            .outputs = {&output, 1}},
                                           scratch, context_)
                    .ok());
    return std::memcmp(wanted.data(), results_.data() + (token * kTopK + j) * hidden_,
                       wanted.size() * sizeof(kernels::bf16)) == 0;
  }

  SteadyClock clock_;
  kernels::Context context_{kernels::BestCpuLevel(), 1};
  std::unique_ptr<experts::ExpertSet> set_;
  int64_t hidden_ = 0;
  std::vector<kernels::bf16> rows_, results_;
  std::vector<RowOrigin> origins_{static_cast<size_t>(kTokens)};
  std::unique_ptr<LocalDispatch> dispatch_;
};

TEST_F(LocalDispatchTest, PutsEveryResultInItsPlace) {
  const std::vector<int32_t> ids = {7, 0, 3, 7, 0, 3, 2, 7, 7, 1};
  EXPECT_TRUE(Call(ids).failed.empty());
  for (int64_t token = 0; token < kTokens; ++token) {
    for (int64_t j = 0; j < kTopK; ++j)
      EXPECT_TRUE(IsResultOf(token, j, ids[token * kTopK + j])) << token << " " << j;
  }
  EXPECT_FALSE(IsResultOf(0, 0, 1));
}

TEST_F(LocalDispatchTest, TokensOfAMissingExpertFailAndTheOthersAreServed) {
  set_->Release({1, 3});
  set_->Release({1, 2});
  set_->Release({2, 7});
  EXPECT_THAT(dispatch_->Missing(), ElementsAre(Pair(1, 2), Pair(1, 3), Pair(2, 7)));
  const std::vector<int32_t> ids = {7, 0, 3, 7, 0, 5, 2, 3, 7, 1};
  const ExpertOutcome outcome = Call(ids);
  ASSERT_EQ(outcome.failed.size(), 2u);
  EXPECT_EQ(outcome.failed[0].token, 1);
  EXPECT_EQ(outcome.failed[1].token, 3);
  for (const FailedToken& failed : outcome.failed)
    EXPECT_EQ(failed.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(outcome.failed[0].status.message()), HasSubstr("layer 1 expert 3"));
  EXPECT_THAT(std::string(outcome.failed[1].status.message()), HasSubstr("layer 1 expert 2"));
  for (const int64_t token : {0, 2, 4}) {
    for (int64_t j = 0; j < kTopK; ++j)
      EXPECT_TRUE(IsResultOf(token, j, ids[token * kTopK + j])) << token << " " << j;
  }
}

TEST_F(LocalDispatchTest, EveryTokenMayFailAndTheNextCallIsServed) {
  for (int32_t expert = 0; expert < 8; ++expert) set_->Release({1, expert});
  const std::vector<int32_t> ids = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1};
  EXPECT_EQ(Call(ids).failed.size(), static_cast<size_t>(kTokens));
  for (int32_t expert = 0; expert < 8; ++expert) ASSERT_TRUE(set_->Load({1, expert}).ok());
  EXPECT_TRUE(dispatch_->Missing().empty());
  EXPECT_TRUE(Call(ids).failed.empty());
  EXPECT_TRUE(IsResultOf(4, 1, 1));
}

}  // namespace
}  // namespace conclave::engine
