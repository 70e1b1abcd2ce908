#include "services/cli/checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/weights/model_config.h"

namespace conclave::cli {
namespace {

using ::testing::HasSubstr;

TEST(CheckCpuTest, KnowsTheLevels) {
  EXPECT_EQ(CheckCpu("avx2 fma avx512f avx512bw avx512vl avx512dq avx512_bf16 avx512_vnni").verdict,
            Verdict::kOk);
  EXPECT_THAT(CheckCpu("avx512f avx512bw avx512vl avx512dq").found,
              HasSubstr("without BF16 and VNNI"));
  EXPECT_THAT(CheckCpu("avx512f avx512bw avx512vl avx512dq avx512_vnni").found,
              HasSubstr("without BF16:"));
  EXPECT_EQ(CheckCpu("avx2 fma").verdict, Verdict::kOk);
  EXPECT_THAT(CheckCpu("avx2 fma").found, HasSubstr("without VNNI"));
  EXPECT_THAT(CheckCpu("avx2 fma avx_vnni").found, HasSubstr("with VNNI"));
  EXPECT_EQ(CheckCpu("sse2").verdict, Verdict::kWarn);
  EXPECT_FALSE(CheckCpu("sse2").remedy.empty());
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

TEST(ParametersOfTest, CountsEachPart) {
  weights::ModelConfig config;
  config.vocab_size = 10;
  config.hidden = 4;
  config.num_layers = 2;
  config.dense_intermediate = 8;
  config.ffn = {weights::FfnKind::kDense, weights::FfnKind::kMoe};
  config.attention = {.num_heads = 2, .num_kv_heads = 1, .head_dim = 2};
  config.moe = {.num_experts = 3, .top_k = 1, .intermediate = 5};
  const int64_t attention = 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4;
  EXPECT_EQ(ParametersOf(config), 2 * 40 + 2 * attention + 3 * 4 * 8 + 3 * 3 * 4 * 5 + 3 * 4);
}

}  // namespace
}  // namespace conclave::cli
