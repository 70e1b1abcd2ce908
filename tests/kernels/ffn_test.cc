#include "kernels/ffn.h"

#include <gtest/gtest.h>

#include <deque>
#include <vector>

#include "kernels/ref/matmul.h"
#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

struct Experts {
  Experts(Rng& rng, WeightFormat format, int64_t count, int64_t intermediate, int64_t hidden) {
    for (int64_t e = 0; e < count; ++e) {
      owned.push_back(RandomMatrix(rng, format, intermediate, hidden));
      owned.push_back(RandomMatrix(rng, format, intermediate, hidden));
      owned.push_back(RandomMatrix(rng, format, hidden, intermediate));
    }
    for (int64_t e = 0; e < count; ++e) {
      weights.push_back({owned[3 * e].view(), owned[3 * e + 1].view(), owned[3 * e + 2].view()});
    }
  }
  std::deque<OwnedMatrix> owned;
  std::vector<FfnWeights> weights;
};

TEST(ExpertFfnTest, LevelsAndThreadsGiveTheReferencesBits) {
  Rng rng(1);
  for (WeightFormat format : kAllFormats) {
    for (auto [intermediate, hidden] :
         {std::pair<int64_t, int64_t>{1, 1}, {17, 33}, {130, 64}, {300, 256}}) {
      // Experts without rows, with one, with more than a block of 48.
      const std::vector<int32_t> first_row = {0, 0, 1, 4, 4, 11, 66, 66};
      const Experts experts(rng, format, 7, intermediate, hidden);
      const std::vector<float> input = rng.Normals(66 * hidden);
      std::vector<float> expected(input.size());
      const auto in = DenseView<const float>(input.data(), 66, hidden);
      ref::ExpertFfn(experts.weights, {first_row, in, DenseView(expected.data(), 66, hidden)});
      for (CpuLevel level : SupportedLevels()) {
        for (int threads : {1, 2, 3}) {
          Context context(level, threads);
          std::vector<float> output(input.size(), -1.0f);
          ExpertFfn(experts.weights, {first_row, in, DenseView(output.data(), 66, hidden)},
                    context);
          ASSERT_TRUE(SameBits(output, expected))
              << NameOf(format) << " " << CpuLevelName(level) << " " << intermediate;
        }
      }
    }
  }
}

TEST(ExpertFfnTest, ARowAloneHasTheBitsItHasAmongOthers) {
  Rng rng(2);
  const Experts experts(rng, WeightFormat::kBf16, 1, 50, 40);
  const std::vector<float> input = rng.Normals(20 * 40);
  Context context(BestCpuLevel(), 2);
  std::vector<float> all(input.size());
  FeedForward(experts.weights[0], DenseView<const float>(input.data(), 20, 40),
              DenseView(all.data(), 20, 40), context);
  for (int64_t r = 0; r < 20; ++r) {
    std::vector<float> alone(40);
    FeedForward(experts.weights[0], DenseView<const float>(input.data() + r * 40, 1, 40),
                DenseView(alone.data(), 1, 40), context);
    ASSERT_TRUE(SameBits(alone, {all.begin() + r * 40, all.begin() + (r + 1) * 40}));
  }
}

TEST(ExpertFfnTest, AcceptsNoExpertsAndNoRows) {
  for (CpuLevel level : SupportedLevels()) {
    Context context(level, 2);
    const int32_t nothing[] = {0};
    ExpertFfn({}, {nothing, {}, {}}, context);
    Rng rng(3);
    const Experts experts(rng, WeightFormat::kBf16, 2, 16, 16);
    const int32_t empty[] = {0, 0, 0};
    ExpertFfn(experts.weights, {empty, {nullptr, 0, 16, 16}, {nullptr, 0, 16, 16}}, context);
  }
}

}  // namespace
}  // namespace conclave::kernels
