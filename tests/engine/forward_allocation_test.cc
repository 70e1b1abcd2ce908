// A decode step of a shape that was there before allocates nothing, from the embedding to the
// logits.

#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "services/engine/forward.h"
#include "tests/support/allocation_count.h"
#include "tests/support/forward_rig.h"

namespace conclave::engine {
namespace {

using kernels::NumericsClass;
using testing_support::AllocationCount;

class ForwardAllocationTest
    : public ::testing::TestWithParam<std::tuple<const char*, NumericsClass>> {};

TEST_P(ForwardAllocationTest, DecodeStepsAllocateNothing) {
  if (kernels::BestCpuLevel() == kernels::CpuLevel::kReference) {
    GTEST_SKIP() << "the plain reference takes memory as it pleases";
  }
  constexpr int64_t kBlocks = 8, kSequences = 4, kSteps = 40;
  const auto [family, numerics] = GetParam();
  const auto loaded =
      testing::LoadModel(std::string(CONCLAVE_SOURCE_DIR) + "/tests/golden/" + family, numerics);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const testing::LoadedModel& model = **loaded;
  kernels::Context context(kernels::BestCpuLevel(), 2);
  const auto dispatch = testing::LocalExperts()(model, context);
  const int64_t block_bytes = KvBlockBytesOf(model.config(), numerics);
  RowBuffer<std::byte> pool;
  const KvStorage storage{.base = pool.Shape(kBlocks, block_bytes).data,
                          .block_stride_bytes = block_bytes};
  Forward forward(model.engine, storage, kBlocks * kernels::kBlockTokens, dispatch.get(), &context);

  // Sequences of one token each and of two blocks.
  std::vector<std::vector<int32_t>> ids(kSequences), blocks(kSequences);
  std::vector<ForwardSequence> sequences;
  for (int32_t s = 0; s < kSequences; ++s) {
    ids[s] = {3 + s};
    blocks[s] = {2 * s, 2 * s + 1};
    sequences.push_back({.ids = ids[s],
                         .first_position = 0,
                         .blocks = blocks[s],
                         .num_logits = 1,
                         .origin = {},
                         .traceparent = {}});
  }
  ForwardOutput output;
  int64_t allocated = 0;
  for (int64_t step = 0; step < kSteps; ++step) {
    const int64_t before = AllocationCount();
    forward.Run(sequences, &output);
    // Which experts are used differs from step to step: the most of them is soon seen.
    if (step >= kSteps / 2) allocated += AllocationCount() - before;
    for (int32_t s = 0; s < kSequences; ++s) {
      ASSERT_TRUE(output.status[s].ok());
      ids[s][0] = (ids[s][0] * 7 + s) % 500;
      ++sequences[s].first_position;
    }
  }
  EXPECT_EQ(allocated, 0);
}

INSTANTIATE_TEST_SUITE_P(Models, ForwardAllocationTest,
                         ::testing::Combine(::testing::Values("deepseek_v2_lite", "deepseek_v3",
                                                              "qwen2_moe", "qwen3_moe"),
                                            ::testing::ValuesIn(kernels::kNumericsClasses)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + "_" +
                                  std::string(kernels::NumericsClassName(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace conclave::engine
