#include "shared/experts/expert_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "kernels/bf16.h"
#include "shared/weights/checkpoint.h"

namespace conclave::experts {
namespace {

using kernels::NumericsClass;
using kernels::RowType;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kFolder =
    CONCLAVE_SOURCE_DIR "/tests/golden/deepseek_v3";  // layers 1 and 2, 16 experts, hidden 160

std::shared_ptr<const weights::Checkpoint> OpenCheckpoint() {
  auto checkpoint = weights::Checkpoint::Open(kFolder, {});
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return *std::move(checkpoint);
}

// Rows of random numbers of a row type, each in memory of its own, and place for their results.
class Rows {
 public:
  Rows(RowType type, int64_t hidden, int64_t num_rows, uint64_t seed) {
    std::mt19937_64 random(seed);
    for (int64_t row = 0; row < num_rows; ++row) {
      std::vector<float> values;
      for (int64_t i = 0; i < hidden; ++i)
        values.push_back(static_cast<float>(static_cast<int64_t>(random() % 4001) - 2000) * 1e-3f);
      std::vector<std::byte> bytes(static_cast<size_t>(hidden) * kernels::RowTypeBytes(type));
      kernels::RoundRows(type, kernels::DenseView<const float>(values.data(), 1, hidden),
                         bytes.data());
      input_bytes_.push_back(bytes);
      output_bytes_.emplace_back(bytes.size(), std::byte{0xff});
    }
    for (int64_t row = 0; row < num_rows; ++row) {
      inputs.push_back(input_bytes_[row].data());
      outputs.push_back(output_bytes_[row].data());
    }
  }
  const std::vector<std::byte>& output(int64_t row) const { return output_bytes_[row]; }

  std::vector<const std::byte*> inputs;
  std::vector<std::byte*> outputs;

 private:
  std::vector<std::vector<std::byte>> input_bytes_, output_bytes_;
};

TEST(ExpertSetTest, HoldsWhatWasLoaded) {
  ExpertSet set(OpenCheckpoint(), NumericsClass::kBf16);
  EXPECT_TRUE(set.Held().empty());
  EXPECT_EQ(set.bytes(), 0u);
  ASSERT_TRUE(set.Load({2, 5}).ok());
  ASSERT_TRUE(set.Load({1, 15}).ok());
  ASSERT_TRUE(set.Load({2, 5}).ok());
  EXPECT_THAT(set.Held(), ElementsAre(weights::ExpertId{1, 15}, weights::ExpertId{2, 5}));
  EXPECT_TRUE(set.Holds({2, 5}));
  EXPECT_FALSE(set.Holds({2, 6}));
  EXPECT_GE(set.bytes(), 2 * weights::ExpertBytes(set.config(), NumericsClass::kBf16));
}

TEST(ExpertSetTest, RefusesExpertsThatTheModelLacks) {
  ExpertSet set(OpenCheckpoint(), NumericsClass::kF32);
  for (const weights::ExpertId id : {weights::ExpertId{0, 0}, {1, 16}, {3, 0}, {-1, 0}, {1, -1}}) {
    EXPECT_EQ(set.Load(id).code(), absl::StatusCode::kNotFound) << id.layer << " " << id.expert;
  }
  EXPECT_TRUE(set.Held().empty());
}

TEST(ExpertSetTest, ReleasedExpertLivesUntilItsLastUser) {
  ExpertSet set(OpenCheckpoint(), NumericsClass::kF32);
  ASSERT_TRUE(set.Load({1, 0}).ok());
  const auto found = set.Find({1, 0});
  set.Release({1, 0});
  set.Release({1, 0});  // nothing to do
  EXPECT_EQ(set.Find({1, 0}), nullptr);
  ASSERT_NE(found, nullptr);
  EXPECT_FALSE(found->ffn.down.empty());
  EXPECT_TRUE(set.Load({1, 0}).ok());
}

TEST(ExpertSetTest, LoadsAndFindsFromSeveralThreads) {
  ExpertSet set(OpenCheckpoint(), NumericsClass::kBf16);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&set, thread] {
      for (int32_t i = 0; i < 16; ++i) {
        const weights::ExpertId id{1, (i + 4 * thread) % 16};
        EXPECT_TRUE(set.Load(id).ok());
        EXPECT_NE(set.Find(id), nullptr);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(set.Held().size(), 16u);
}

class ComputeExpertRowsTest : public ::testing::TestWithParam<NumericsClass> {
 protected:
  void SetUp() override {
    for (int32_t expert = 0; expert < 4; ++expert) ASSERT_TRUE(set_.Load({1, expert}).ok());
  }
  RowType row_type() const { return kernels::RowTypeOf(GetParam()); }
  int64_t hidden() const { return set_.config().hidden; }
  absl::Status Compute(std::vector<int32_t> experts, std::vector<int32_t> first_row, Rows& rows) {
    return ComputeExpertRows(set_,
                             {.layer = 1,
                              .type = row_type(),
                              .hidden = hidden(),
                              .experts = experts,
                              .first_row = first_row,
                              .inputs = rows.inputs,
                              .outputs = rows.outputs},
                             scratch_, context_);
  }

  ExpertSet set_{OpenCheckpoint(), GetParam()};
  kernels::Context context_{kernels::BestCpuLevel(), 2};
  ExpertScratch scratch_;
};

TEST_P(ComputeExpertRowsTest, RowsDoNotDependOnTheirCompany) {
  Rows together(row_type(), hidden(), 9, 1);
  ASSERT_TRUE(Compute({3, 0, 2}, {0, 4, 5, 9}, together).ok());
  for (int64_t row = 0; row < 9; ++row) {
    Rows alone(row_type(), hidden(), 9, 1);
    alone.inputs = {alone.inputs[row]};
    alone.outputs = {alone.outputs[row]};
    ASSERT_TRUE(Compute({row < 4 ? 3 : row < 5 ? 0 : 2}, {0, 1}, alone).ok());
    EXPECT_EQ(alone.output(row), together.output(row)) << row;
  }
}

// Against double arithmetic on the checkpoint's own numbers.
TEST_P(ComputeExpertRowsTest, ComputesTheGatedNetwork) {
  const int64_t intermediate = set_.config().moe.intermediate;
  const auto checkpoint = OpenCheckpoint();
  const auto read = [&](const char* name, int64_t rows, int64_t cols) {
    std::vector<float> values(static_cast<size_t>(rows * cols));
    checkpoint->ReadRows(std::string("model.layers.1.mlp.experts.2.") + name + ".weight", 0, rows,
                         values);
    return values;
  };
  const auto gate = read("gate_proj", intermediate, hidden());
  const auto up = read("up_proj", intermediate, hidden());
  const auto down = read("down_proj", hidden(), intermediate);

  Rows rows(row_type(), hidden(), 1, 7);
  ASSERT_TRUE(Compute({2}, {0, 1}, rows).ok());
  std::vector<float> x(static_cast<size_t>(hidden())), found(x.size());
  kernels::WidenRows(row_type(), rows.inputs[0], kernels::DenseView(x.data(), 1, hidden()));
  kernels::WidenRows(row_type(), rows.output(0).data(),
                     kernels::DenseView(found.data(), 1, hidden()));

  std::vector<double> h;
  for (int64_t i = 0; i < intermediate; ++i) {
    double g = 0, u = 0;
    for (int64_t k = 0; k < hidden(); ++k) {
      g += double{x[k]} * gate[i * hidden() + k];
      u += double{x[k]} * up[i * hidden() + k];
    }
    h.push_back(g / (1 + std::exp(-g)) * u);
  }
  double largest = 0, error = 0;
  for (int64_t n = 0; n < hidden(); ++n) {
    double y = 0;
    for (int64_t i = 0; i < intermediate; ++i) y += h[i] * down[n * intermediate + i];
    largest = std::max(largest, std::abs(y));
    error = std::max(error, std::abs(y - double{found[n]}));
  }
  EXPECT_GT(largest, 0.01);
  // f32: sums of some hundred terms; bf16: two roundings of 2^-9, of h and of the row; integers:
  // those, and two matrices off by a 254th or a 16th of the largest of each group.
  const std::map<NumericsClass, double> most = {{NumericsClass::kF32, 1e-5},
                                                {NumericsClass::kBf16, 1.0 / 128},
                                                {NumericsClass::kInt8, 1.0 / 32},
                                                {NumericsClass::kInt4, 1.0 / 4}};
  EXPECT_LT(error, largest * most.at(GetParam()));
}

TEST_P(ComputeExpertRowsTest, ExpertThatIsNotHeldIsNamedAndNothingIsWritten) {
  Rows rows(row_type(), hidden(), 3, 1);
  const absl::Status status = Compute({0, 9}, {0, 1, 3}, rows);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer 1 expert 9"));
  for (int64_t row = 0; row < 3; ++row) {
    EXPECT_THAT(rows.output(row), ::testing::Each(std::byte{0xff}));
  }
}

TEST_P(ComputeExpertRowsTest, NoRowsAreNoWork) {
  Rows rows(row_type(), hidden(), 0, 1);
  EXPECT_TRUE(Compute({}, {0}, rows).ok());
}

INSTANTIATE_TEST_SUITE_P(Classes, ComputeExpertRowsTest,
                         ::testing::ValuesIn(kernels::kNumericsClasses), [](const auto& info) {
                           return std::string(kernels::NumericsClassName(info.param));
                         });

}  // namespace
}  // namespace conclave::experts
