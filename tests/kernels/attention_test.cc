#include "kernels/attention.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/ref/attention.h"
#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

struct Shape {
  int32_t num_heads, num_kv_heads, key_dim, value_dim;
  bool latent;  // the value is the key's prefix
};

constexpr Shape kShapes[] = {
    {1, 1, 16, 16, false}, {3, 3, 20, 24, false}, {6, 3, 33, 17, false}, {6, 1, 64, 64, false},
    {4, 1, 128, 96, true}, {3, 1, 41, 32, true},  {2, 1, 37, 35, true},  {5, 1, 17, 17, true},
};

// Several sequences of one layer, their keys, values and queries, in a pool whose blocks are dealt
// out in a shuffled order.
class Scene {
 public:
  Scene(uint64_t seed, NumericsClass numerics, const Shape& shape, std::vector<int64_t> lengths)
      : shape_{numerics, shape.num_kv_heads, shape.key_dim, shape.value_dim, shape.latent},
        num_heads_(shape.num_heads),
        lengths_(std::move(lengths)),
        rng_(seed) {
    int64_t num_blocks = 0;
    for (int64_t length : lengths_) num_blocks += (length + kBlockTokens - 1) / kBlockTokens;
    std::vector<int32_t> ids(static_cast<size_t>(num_blocks));
    std::iota(ids.begin(), ids.end(), 0);
    for (size_t i = ids.size(); i > 1; --i) {
      std::swap(ids[i - 1], ids[static_cast<size_t>(rng_.Below(static_cast<int64_t>(i)))]);
    }
    for (int64_t length : lengths_) {
      const int64_t blocks = (length + kBlockTokens - 1) / kBlockTokens;
      blocks_.emplace_back(ids.end() - blocks, ids.end());
      ids.resize(ids.size() - static_cast<size_t>(blocks));
      const int64_t kv = shape_.num_kv_heads;
      keys_.push_back(rng_.Normals(length * kv * shape_.key_dim));
      values_.push_back(rng_.Normals(length * kv * shape_.value_dim));
      queries_.push_back(rng_.Normals(length * num_heads_ * shape_.key_dim));
    }
    parameters_.kv = shape_;
    parameters_.num_heads = num_heads_;
    parameters_.scale = 0.17f;
    num_blocks_ = num_blocks;
  }

  AttentionParameters& parameters() { return parameters_; }
  std::vector<float>& queries(size_t s) { return queries_[s]; }
  std::vector<float>& keys(size_t s) { return keys_[s]; }
  std::vector<float>& values(size_t s) { return values_[s]; }

  // Runs all sequences in steps of at most `chunk` tokens of each, several sequences a step.
  // `stale` fills the pool before, as if other sequences had used its blocks. Returns the results,
  // sequence by sequence.
  std::vector<float> Run(Context& context, int64_t chunk, float stale = 0.0f) {
    const size_t stride = KvBlockBytes(shape_) + 64;
    AlignedBytes pool(stride * static_cast<size_t>(num_blocks_));
    const KvLayer layer{pool.data(), static_cast<int64_t>(stride)};
    if (stale != 0.0f) Soil(layer, stale, context);
    std::vector<std::vector<float>> results;
    for (int64_t length : lengths_) {
      results.emplace_back(static_cast<size_t>(length * num_heads_ * shape_.value_dim));
    }
    const int64_t longest = *std::max_element(lengths_.begin(), lengths_.end());
    for (int64_t start = 0; start < longest; start += chunk) {
      Step(context, layer, start, chunk, results);
    }
    std::vector<float> all;
    for (const auto& result : results) all.insert(all.end(), result.begin(), result.end());
    return all;
  }

 private:
  void Soil(const KvLayer& layer, float stale, Context& context) {
    std::vector<int32_t> ids(static_cast<size_t>(num_blocks_));
    std::iota(ids.begin(), ids.end(), 0);
    const int64_t rows = num_blocks_ * kBlockTokens;
    const std::vector<float> fill(
        static_cast<size_t>(rows * shape_.num_kv_heads * (shape_.key_dim + shape_.value_dim)),
        stale);
    const SequenceRows everything{0, rows, 0, ids};
    WriteKv(shape_, layer, {&everything, 1},
            DenseView(fill.data(), rows, int64_t{shape_.num_kv_heads} * shape_.key_dim),
            DenseView(fill.data(), rows, int64_t{shape_.num_kv_heads} * shape_.value_dim), context);
  }

  void Step(Context& context, const KvLayer& layer, int64_t start, int64_t chunk,
            std::vector<std::vector<float>>& results) {
    const int64_t key_cols = int64_t{shape_.num_kv_heads} * shape_.key_dim;
    const int64_t value_cols = int64_t{shape_.num_kv_heads} * shape_.value_dim;
    const int64_t query_cols = int64_t{num_heads_} * shape_.key_dim;
    const int64_t output_cols = int64_t{num_heads_} * shape_.value_dim;
    std::vector<SequenceRows> sequences;
    std::vector<size_t> indices;
    std::vector<float> keys, values, queries;
    int64_t rows = 0;
    const auto append = [](std::vector<float>& to, const std::vector<float>& from, int64_t first,
                           int64_t count, int64_t cols) {
      to.insert(to.end(), from.begin() + first * cols, from.begin() + (first + count) * cols);
    };
    for (size_t s = 0; s < lengths_.size(); ++s) {
      const int64_t count = std::min(chunk, lengths_[s] - start);
      if (count <= 0) continue;
      sequences.push_back({rows, count, start, blocks_[s]});
      indices.push_back(s);
      append(keys, keys_[s], start, count, key_cols);
      append(values, values_[s], start, count, value_cols);
      append(queries, queries_[s], start, count, query_cols);
      rows += count;
    }
    const MatrixView<const float> no_values{};
    WriteKv(shape_, layer, sequences, DenseView<const float>(keys.data(), rows, key_cols),
            shape_.value_is_key_prefix ? no_values
                                       : DenseView<const float>(values.data(), rows, value_cols),
            context);
    std::vector<float> output(static_cast<size_t>(rows * output_cols), -3.0f);
    Attention(parameters_, layer, sequences,
              DenseView<const float>(queries.data(), rows, query_cols),
              DenseView(output.data(), rows, output_cols), context);
    for (size_t i = 0; i < sequences.size(); ++i) {
      std::copy_n(output.begin() + sequences[i].first_row * output_cols,
                  sequences[i].num_rows * output_cols,
                  results[indices[i]].begin() + start * output_cols);
    }
  }

  KvShape shape_;
  int32_t num_heads_;
  std::vector<int64_t> lengths_;
  Rng rng_;
  AttentionParameters parameters_;
  int64_t num_blocks_ = 0;
  std::vector<std::vector<int32_t>> blocks_;
  std::vector<std::vector<float>> keys_, values_, queries_;
};

std::vector<float> RunAt(Scene& scene, CpuLevel level, int threads, int64_t chunk) {
  Context context(level, threads);
  return scene.Run(context, chunk);
}

constexpr NumericsClass kClasses[] = {NumericsClass::kF32, NumericsClass::kBf16};
constexpr int64_t kWhole = 1 << 20;

// Softmax attention in f64, straight from its definition.
std::vector<float> Exact(Scene& scene, const Shape& shape, int64_t length, int64_t window,
                         const std::vector<float>& sinks) {
  std::vector<float> output;
  const int64_t group = shape.num_heads / shape.num_kv_heads;
  for (int64_t t = 0; t < length; ++t) {
    const int64_t first = window > 0 ? std::max<int64_t>(0, t - window + 1) : 0;
    for (int64_t h = 0; h < shape.num_heads; ++h) {
      const int64_t kv = h / group;
      const float* query = &scene.queries(0)[(t * shape.num_heads + h) * shape.key_dim];
      std::vector<double> values(static_cast<size_t>(shape.value_dim));
      double total = sinks.empty() ? 0.0 : std::exp(sinks[h]);
      for (int64_t p = first; p <= t; ++p) {
        const float* key = &scene.keys(0)[(p * shape.num_kv_heads + kv) * shape.key_dim];
        const float* value =
            shape.latent ? key : &scene.values(0)[(p * shape.num_kv_heads + kv) * shape.value_dim];
        double score = 0;
        for (int64_t d = 0; d < shape.key_dim; ++d) score += double{query[d]} * key[d];
        const double weight = std::exp(score * double{scene.parameters().scale});
        total += weight;
        for (int64_t d = 0; d < shape.value_dim; ++d) values[d] += weight * value[d];
      }
      for (double value : values) output.push_back(static_cast<float>(value / total));
    }
  }
  return output;
}

TEST(AttentionTest, ReferenceIsNearTheDefinition) {
  const std::vector<float> sinks = {0.5f, -1.0f, 2.0f, 0.0f, 1.0f, -0.5f};
  for (NumericsClass numerics : kClasses) {
    for (const Shape& shape : {kShapes[2], kShapes[4]}) {
      for (int64_t window : {0, 40}) {
        for (bool with_sinks : {false, true}) {
          Scene scene(3, numerics, shape, {265});
          scene.parameters().window_tokens = static_cast<int32_t>(window);
          scene.parameters().sinks = with_sinks ? sinks.data() : nullptr;
          const std::vector<float> actual = RunAt(scene, CpuLevel::kReference, 1, kWhole);
          const std::vector<float> exact =
              Exact(scene, shape, 265, window, with_sinks ? sinks : std::vector<float>{});
          // bf16: scores of magnitude 5 carry 2^-8 relative, so probabilities some percent.
          const float tolerance = numerics == NumericsClass::kF32 ? 2e-5f : 0.06f;
          for (size_t i = 0; i < exact.size(); ++i) ASSERT_NEAR(actual[i], exact[i], tolerance);
        }
      }
    }
  }
}

TEST(AttentionTest, LevelsThreadsAndChunksGiveTheReferencesBits) {
  const std::vector<int64_t> lengths = {70, 1, 33, 257};
  for (NumericsClass numerics : kClasses) {
    for (const Shape& shape : kShapes) {
      Scene scene(5, numerics, shape, lengths);
      const std::vector<float> expected = RunAt(scene, CpuLevel::kReference, 1, kWhole);
      for (CpuLevel level : SupportedLevels()) {
        if (level == CpuLevel::kReference) continue;
        for (int64_t chunk : {int64_t{1}, int64_t{7}, int64_t{64}, kWhole}) {
          for (int threads : {1, 2, 3}) {
            ASSERT_TRUE(SameBits(RunAt(scene, level, threads, chunk), expected))
                << NumericsClassName(numerics) << " " << CpuLevelName(level) << " heads "
                << shape.num_heads << " chunk " << chunk << " threads " << threads;
          }
        }
      }
      ASSERT_TRUE(SameBits(RunAt(scene, CpuLevel::kReference, 1, 7), expected));
    }
  }
}

TEST(AttentionTest, SegmentsMeetAtTheirEdges) {
  const Shape shape = {2, 1, 32, 32, false};
  for (NumericsClass numerics : kClasses) {
    for (int64_t length : {255, 256, 257, 600}) {
      Scene scene(6, numerics, shape, {length});
      const std::vector<float> expected = RunAt(scene, CpuLevel::kReference, 1, kWhole);
      for (CpuLevel level : SupportedLevels()) {
        if (level == CpuLevel::kReference && length > 256) continue;
        for (int64_t chunk : {int64_t{64}, kWhole}) {
          ASSERT_TRUE(SameBits(RunAt(scene, level, 2, chunk), expected))
              << NumericsClassName(numerics) << " " << CpuLevelName(level) << " " << length;
        }
      }
    }
  }
}

TEST(AttentionTest, WindowsAndSinksGiveTheReferencesBits) {
  const Shape shape = {6, 3, 24, 16, false};
  const std::vector<float> sinks = {0.5f, -1.0f, 20.0f, 0.0f, -1e30f, 3.0f};
  for (NumericsClass numerics : kClasses) {
    for (int32_t window : {1, 2, 31, 100, 256, 300}) {
      Scene scene(7, numerics, shape, {530, 90});
      scene.parameters().window_tokens = window;
      scene.parameters().sinks = window % 2 == 0 ? sinks.data() : nullptr;
      const std::vector<float> expected = RunAt(scene, CpuLevel::kReference, 1, kWhole);
      for (CpuLevel level : SupportedLevels()) {
        if (level == CpuLevel::kReference) continue;
        for (int64_t chunk : {int64_t{1}, int64_t{64}, kWhole}) {
          ASSERT_TRUE(SameBits(RunAt(scene, level, 2, chunk), expected))
              << NumericsClassName(numerics) << " " << CpuLevelName(level) << " " << window
              << " chunk " << chunk;
        }
      }
    }
  }
}

// However a scheduler cuts the sequences, alone or in one step with others.
TEST(AttentionPropertyTest, AnyScheduleGivesTheSameBits) {
  const CpuLevel level = BestCpuLevel();
  EXPECT_TRUE(rc::check([level] {
    const Shape& shape = kShapes[*rc::gen::inRange<size_t>(0, std::size(kShapes))];
    const NumericsClass numerics = kClasses[*rc::gen::inRange<size_t>(0, 2)];
    const std::vector<int64_t> lengths =
        *rc::gen::container<std::vector<int64_t>>(3, rc::gen::inRange<int64_t>(1, 330));
    const uint64_t seed = *rc::gen::arbitrary<uint64_t>();
    Scene together(seed, numerics, shape, lengths);
    const int32_t window = *rc::gen::element(0, 0, 50);
    together.parameters().window_tokens = window;
    const std::vector<float> expected = RunAt(together, level, 1, kWhole);
    const int64_t chunk = *rc::gen::inRange<int64_t>(1, 100);
    RC_ASSERT(SameBits(RunAt(together, level, *rc::gen::inRange(1, 4), chunk), expected));
    // The first sequence alone.
    Scene alone(seed, numerics, shape, {lengths[0]});
    alone.parameters().window_tokens = window;
    alone.keys(0) = together.keys(0);
    alone.values(0) = together.values(0);
    alone.queries(0) = together.queries(0);
    const std::vector<float> first = RunAt(alone, level, 2, chunk);
    RC_ASSERT(SameBits(
        first, {expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(first.size())}));
  }));
}

// DeepSeek-V2-Lite's shape, once.
TEST(AttentionTest, LatentShapeOfARealModelGivesTheReferencesBits) {
  const Shape shape = {16, 1, 576, 512, true};
  for (NumericsClass numerics : kClasses) {
    Scene scene(8, numerics, shape, {19});
    const std::vector<float> expected = RunAt(scene, CpuLevel::kReference, 1, kWhole);
    for (CpuLevel level : SupportedLevels()) {
      for (int64_t chunk : {int64_t{1}, kWhole}) {
        EXPECT_TRUE(SameBits(RunAt(scene, level, 2, chunk), expected)) << CpuLevelName(level);
      }
    }
  }
}

TEST(AttentionTest, WhatABlockHeldBeforeDoesNotMatter) {
  const float kStale[] = {1.0f, -1e30f, std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()};
  for (NumericsClass numerics : kClasses) {
    for (const Shape& shape : {kShapes[2], kShapes[5]}) {
      Scene scene(9, numerics, shape, {45, 3, 290});
      const std::vector<float> expected = RunAt(scene, CpuLevel::kReference, 1, kWhole);
      for (CpuLevel level : SupportedLevels()) {
        Context context(level, 2);
        for (float stale : kStale) {
          if (level == CpuLevel::kReference && stale == stale) continue;  // slow; NaN is the worst
          EXPECT_TRUE(SameBits(scene.Run(context, 64, stale), expected))
              << NumericsClassName(numerics) << " " << CpuLevelName(level) << " " << stale;
        }
      }
    }
  }
}

TEST(AttentionTest, LargeScoresStayFinite) {
  const Shape shape = {2, 2, 16, 16, false};
  for (NumericsClass numerics : kClasses) {
    Scene scene(10, numerics, shape, {300});
    for (float& x : scene.queries(0)) x *= 1e4f;
    const std::vector<float> expected = RunAt(scene, CpuLevel::kReference, 1, kWhole);
    EXPECT_TRUE(
        std::all_of(expected.begin(), expected.end(), [](float x) { return std::isfinite(x); }));
    for (CpuLevel level : SupportedLevels()) {
      EXPECT_TRUE(SameBits(RunAt(scene, level, 2, 64), expected)) << CpuLevelName(level);
    }
  }
}

TEST(AttentionTest, ANanInOneSequenceStaysThere) {
  const Shape shape = {3, 1, 16, 16, false};
  for (NumericsClass numerics : kClasses) {
    Scene scene(11, numerics, shape, {40, 40});
    const std::vector<float> clean = RunAt(scene, BestCpuLevel(), 2, kWhole);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::fill(scene.queries(0).begin(), scene.queries(0).end(), nan);
    std::fill(scene.keys(0).begin(), scene.keys(0).end(), nan);
    std::fill(scene.values(0).begin(), scene.values(0).end(), nan);
    const std::vector<float> mixed = RunAt(scene, BestCpuLevel(), 2, kWhole);
    const auto half = static_cast<std::ptrdiff_t>(clean.size() / 2);
    EXPECT_TRUE(SameBits({mixed.begin() + half, mixed.end()}, {clean.begin() + half, clean.end()}));
    EXPECT_TRUE(std::isnan(mixed.front()));
  }
}

TEST(KvBlockBytesTest, IsAMultipleOfACacheLine) {
  for (NumericsClass numerics : kClasses) {
    for (const Shape& shape : kShapes) {
      const KvShape kv{numerics, shape.num_kv_heads, shape.key_dim, shape.value_dim, shape.latent};
      EXPECT_EQ(KvBlockBytes(kv) % 64, 0u);
      EXPECT_GE(KvBlockBytes(kv),
                static_cast<size_t>(kBlockTokens * shape.num_kv_heads * shape.key_dim * 2));
    }
  }
}

}  // namespace
}  // namespace conclave::kernels
