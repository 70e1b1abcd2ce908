// Once a kernel has seen its shapes it allocates nothing: what the steps of a model do again and
// again is computed in memory that is there.

#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/ffn.h"
#include "kernels/gate.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "kernels/sample.h"
#include "tests/kernels/random_rows.h"
#include "tests/support/allocation_count.h"

namespace conclave::kernels {
namespace {

using testing_support::AllocationCount;

constexpr int64_t kRows = 5;
// Enough work to be shared between threads.
constexpr int64_t kHidden = 512, kIntermediate = 300, kHeads = 4, kHeadDim = 64;

class AllocationTest : public ::testing::TestWithParam<CpuLevel> {
 protected:
  std::vector<float>& Floats(int64_t count) { return floats_.emplace_back(rng_.Normals(count)); }
  MatrixView<const float> Input(int64_t rows, int64_t cols) {
    return DenseView<const float>(Floats(rows * cols).data(), rows, cols);
  }
  MatrixView<float> Output(int64_t rows, int64_t cols) {
    return DenseView(Floats(rows * cols).data(), rows, cols);
  }
  PackedMatrix Weight(WeightFormat format, int64_t outputs, int64_t inputs) {
    return matrices_.emplace_back(RandomMatrix(rng_, format, outputs, inputs)).view();
  }
  // Runs it once with memory to be had, then some times without.
  void Check(const std::string& name, const std::function<void()>& kernel) {
    kernel();
    const int64_t before = AllocationCount();
    for (int i = 0; i < 5; ++i) kernel();
    EXPECT_EQ(AllocationCount() - before, 0) << name;
  }

  Rng rng_{1};
  std::deque<std::vector<float>> floats_;
  std::deque<OwnedMatrix> matrices_;
  Context context_{GetParam(), 2};
};

TEST_P(AllocationTest, OfProducts) {
  for (WeightFormat format : kAllFormats) {
    const PackedMatrix weight = Weight(format, kIntermediate, kHidden);
    const auto input = Input(kRows, kHidden);
    const auto output = Output(kRows, kIntermediate);
    const float* bias = Floats(kIntermediate).data();
    Check(NameOf(format) + " Matmul", [&] { Matmul(weight, input, output, context_); });
    Check(NameOf(format) + " MatmulBias",
          [&] { MatmulBias(weight, bias, input, output, context_); });
    std::vector<PackedMatrix> heads;
    for (int64_t h = 0; h < kHeads; ++h) heads.push_back(Weight(format, 96, kHeadDim));
    const auto head_input = Input(kRows, kHeads * kHeadDim);
    const auto head_output = Output(kRows, kHeads * 96);
    Check(NameOf(format) + " HeadMatmul",
          [&] { HeadMatmul(heads, head_input, kHeadDim, head_output, 96, context_); });
  }
}

TEST_P(AllocationTest, OfFeedForward) {
  for (WeightFormat format : kAllFormats) {
    std::vector<FfnWeights> experts;
    for (int e = 0; e < 4; ++e) {
      experts.push_back({Weight(format, kIntermediate, kHidden),
                         Weight(format, kIntermediate, kHidden),
                         Weight(format, kHidden, kIntermediate)});
    }
    const auto input = Input(9, kHidden);
    const auto output = Output(9, kHidden);
    const std::vector<int32_t> first_row = {0, 1, 1, 7, 9};
    Check(NameOf(format) + " FeedForward",
          [&] { FeedForward(experts[0], input, output, context_); });
    Check(NameOf(format) + " ExpertFfn", [&] {
      ExpertFfn(experts, {first_row, input, output}, context_);
    });
  }
}

// A decode step of two sequences: one with a context of several segments, one with less than one.
TEST_P(AllocationTest, OfAttention) {
  std::vector<int32_t> ids(32);
  std::iota(ids.begin(), ids.end(), 0);
  const SequenceRows sequences[] = {{0, 1, 700, {ids.data(), 22}}, {1, 1, 100, {&ids[22], 4}}};
  for (NumericsClass numerics : {NumericsClass::kF32, NumericsClass::kBf16}) {
    for (bool latent : {false, true}) {
      const KvShape shape{numerics, latent ? 1 : 2, latent ? 80 : 64, 64, latent};
      const size_t stride = KvBlockBytes(shape);
      AlignedBytes pool(stride * ids.size());
      const KvLayer layer{pool.data(), static_cast<int64_t>(stride)};
      const auto keys = Input(2, int64_t{shape.num_kv_heads} * shape.key_dim);
      const auto values = Input(2, int64_t{shape.num_kv_heads} * shape.value_dim);
      const auto queries = Input(2, kHeads * shape.key_dim);
      const auto output = Output(2, kHeads * shape.value_dim);
      AttentionParameters parameters;
      parameters.kv = shape;
      parameters.num_heads = kHeads;
      const std::string name(latent ? " latent" : " grouped");
      Check(std::string(NumericsClassName(numerics)) + name, [&] {
        WriteKv(shape, layer, sequences, keys, latent ? MatrixView<const float>{} : values,
                context_);
        Attention(parameters, layer, sequences, queries, output, context_);
      });
    }
  }
}

TEST_P(AllocationTest, OfRows) {
  const auto input = Input(kRows, kHidden);
  const auto output = Output(kRows, kHidden);
  const float* weight = Floats(kHidden).data();
  Check("RmsNorm", [&] { RmsNorm(input, weight, 1e-6f, output, context_); });
  Check("Add", [&] { Add(input, input, output, context_); });
  const std::vector<float>& scores = Floats(kRows);
  Check("ScaleBySigmoid", [&] { ScaleBySigmoid(scores, output, context_); });
  std::vector<std::byte> rounded(kRows * kHidden * sizeof(float));
  for (RowType type : {RowType::kF32, RowType::kBf16}) {
    Check("RoundRows", [&] { RoundRows(type, input, rounded.data()); });
    Check("WidenRows", [&] { WidenRows(type, rounded.data(), output); });
  }
  const RopeTable table = MakeRopeTable(RopeFrequencies(1e4, kHeadDim), 100, 1);
  const std::vector<int32_t> positions = {1, 2, 3, 50, 99};
  for (RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalves}) {
    Check("ApplyRope", [&] {
      ApplyRope(table, pairing, positions, kHidden / kHeadDim, kHeadDim, output, context_);
    });
  }
}

TEST_P(AllocationTest, OfTheGate) {
  constexpr int32_t kExperts = 64, kTopK = 6;
  const auto logits = Input(kRows, kExperts);
  std::vector<int32_t> ids(kRows * kTopK);
  const auto weights = Output(kRows, kTopK);
  const auto rows = Input(kRows * kTopK, kHidden);
  const auto sum = Output(kRows, kHidden);
  const std::vector<float>& bias = Floats(kExperts);
  for (const GroupScoring grouping :
       {GroupScoring::kNone, GroupScoring::kMax, GroupScoring::kTopTwoSum}) {
    GateParameters parameters;
    parameters.num_experts = kExperts;
    parameters.top_k = kTopK;
    parameters.grouping = grouping;
    parameters.num_groups = grouping == GroupScoring::kNone ? 1 : 8;
    parameters.top_groups = grouping == GroupScoring::kNone ? 1 : 3;
    parameters.scoring =
        grouping == GroupScoring::kTopTwoSum ? GateScoring::kSigmoid : GateScoring::kSoftmax;
    if (grouping == GroupScoring::kTopTwoSum) parameters.correction_bias = bias.data();
    Check("Gate", [&] {
      Gate(parameters, logits, DenseView(ids.data(), kRows, kTopK), weights, context_);
    });
  }
  Check("CombineExperts", [&] {
    CombineExperts(rows, MatrixView<const float>{weights.data, kRows, kTopK, kTopK}, sum, context_);
  });
}

// Another row of logits each time, as in a generation: what is collected of them differs in length.
TEST_P(AllocationTest, OfTheSampler) {
  constexpr int64_t kVocab = 5000;
  SampleScratch scratch;
  scratch.level = GetParam();
  std::vector<const std::vector<float>*> logits;
  for (int i = 0; i < 8; ++i) logits.push_back(&Floats(kVocab));
  const std::vector<TokenCount> counts = {{.id = 7, .in_prompt = 1, .in_output = 2}};
  const std::pair<int32_t, float> bias[] = {{9, 1.5f}};
  const int32_t banned[] = {3};
  const SampleParameters kinds[] = {
      {.temperature = 0, .logit_bias = {}, .banned_ids = {}},
      {.logit_bias = {}, .banned_ids = {}},
      {.temperature = 0.7f, .top_k = 40, .logit_bias = {}, .banned_ids = {}},
      {.temperature = 0.7f, .top_p = 0.9f, .logit_bias = {}, .banned_ids = {}},
      {.temperature = 0.7f,
       .top_k = 40,
       .top_p = 0.9f,
       .min_p = 0.05f,
       .logit_bias = {},
       .banned_ids = {}},
      {.temperature = 0.7f,
       .top_p = 0.9f,
       .repetition_penalty = 1.2f,
       .presence_penalty = 0.1f,
       .frequency_penalty = 0.1f,
       .logit_bias = bias,
       .banned_ids = banned},
      // The log-probability of the chosen one; the lists of others belong to the caller.
      {.temperature = 0.7f,
       .top_p = 0.9f,
       .logit_bias = {},
       .banned_ids = {},
       .num_top_logprobs = 0},
  };
  for (size_t kind = 0; kind < std::size(kinds); ++kind) {
    uint32_t next = 0;
    Check("Sample, kind " + std::to_string(kind), [&] {
      const SamplePosition position{.seed = 1, .choice_index = 0, .generated_index = next};
      Sample(kinds[kind], position, counts, *logits[next % logits.size()], scratch);
      ++next;
    });
  }
}

// The plain reference takes memory as it pleases.
std::vector<CpuLevel> FastLevels() {
  std::vector<CpuLevel> levels = SupportedLevels();
  std::erase(levels, CpuLevel::kReference);
  return levels;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(AllocationTest);
INSTANTIATE_TEST_SUITE_P(Levels, AllocationTest, ::testing::ValuesIn(FastLevels()),
                         [](const auto& info) { return std::string(CpuLevelName(info.param)); });

}  // namespace
}  // namespace conclave::kernels
