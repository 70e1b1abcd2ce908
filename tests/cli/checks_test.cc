#include "services/cli/checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/weights/model_config.h"

namespace conclave::cli {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kGiB = int64_t{1} << 30;

TEST(CheckCpuTest, KnowsTheLevels) {
  EXPECT_EQ(CheckCpu("avx2 fma avx512f avx512bw avx512vl avx512dq avx512_bf16 avx512_vnni").verdict,
            Verdict::kOk);
  EXPECT_THAT(CheckCpu("avx512f avx512bw avx512vl avx512dq").found, HasSubstr("without BF16"));
  EXPECT_EQ(CheckCpu("avx2 fma").verdict, Verdict::kWarn);
  EXPECT_FALSE(CheckCpu("sse2").remedy.empty());
}

TEST(CheckFitsTest, WarnsWhenOnlyAShorterContextFits) {
  const ModelSize size = {
      .parameters = kGiB, .expert_parameters = kGiB / 2, .kv_elements_per_token = 1 << 20};
  EXPECT_EQ(CheckFits(size, 128, 4 * kGiB, 8 * kGiB, "bf16").verdict, Verdict::kOk);
  const Check shorter = CheckFits(size, 8192, 4 * kGiB, 8 * kGiB, "bf16");
  EXPECT_EQ(shorter.verdict, Verdict::kWarn);
  EXPECT_THAT(shorter.remedy, HasSubstr("--engine-context 768"));
}

TEST(CheckFitsTest, FailsWithARemedyWhenTheWeightsDoNotFit) {
  const ModelSize size = {
      .parameters = kGiB, .expert_parameters = kGiB / 2, .kv_elements_per_token = 1};
  const Check half = CheckFits(size, 1, 3 * kGiB, 8 * kGiB, "f32");
  EXPECT_EQ(half.verdict, Verdict::kFail);
  EXPECT_THAT(half.remedy, HasSubstr("--numerics bf16"));
  const Check more = CheckFits(size, 1, kGiB, 8 * kGiB, "bf16");
  EXPECT_EQ(more.verdict, Verdict::kFail);
  EXPECT_THAT(more.remedy, HasSubstr("docs/two-machines.md"));
  EXPECT_THAT(more.found, HasSubstr("bf16 2.0 GiB, f32 4.0 GiB"));
}

TEST(CheckModelTest, OpensAGoodCheckpointAndNamesABadOne) {
  Context context;
  context.options.common.model = CONCLAVE_SOURCE_DIR "/tests/golden/deepseek_v3";
  const std::vector<Check> good = CheckModel(context);
  ASSERT_EQ(good.size(), 3u);
  EXPECT_EQ(good[0].verdict, Verdict::kOk) << good[0].found;
  EXPECT_THAT(good[0].found, HasSubstr("deepseek_v3"));
  EXPECT_EQ(good[1].name, "text");
  EXPECT_NE(good[1].verdict, Verdict::kFail) << good[1].found;
  EXPECT_EQ(good[2].verdict, Verdict::kOk) << good[2].found;
  context.options.common.model = "/nowhere";
  EXPECT_EQ(CheckModel(context)[0].verdict, Verdict::kFail);
  EXPECT_THAT(CheckModel(context)[0].found, HasSubstr("/nowhere"));
}

TEST(SizeOfTest, CountsEachPart) {
  weights::ModelConfig config;
  config.vocab_size = 10;
  config.hidden = 4;
  config.num_layers = 2;
  config.dense_intermediate = 8;
  config.ffn = {weights::FfnKind::kDense, weights::FfnKind::kMoe};
  config.attention = {.num_heads = 2, .num_kv_heads = 1, .head_dim = 2};
  config.moe = {.num_experts = 3, .top_k = 1, .intermediate = 5};
  const ModelSize size = SizeOf(config);
  const int64_t attention = 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4;
  EXPECT_EQ(size.expert_parameters, 3 * 3 * 4 * 5);
  EXPECT_EQ(size.parameters, 2 * 40 + 2 * attention + 3 * 4 * 8 + 3 * 3 * 4 * 5 + 3 * 4);
  EXPECT_EQ(size.kv_elements_per_token, 2 * 2 * 2);
}

}  // namespace
}  // namespace conclave::cli
