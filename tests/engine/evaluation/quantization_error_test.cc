#include "services/engine/evaluation/quantization_error.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "kernels/quantize.h"
#include "tests/engine/evaluation/golden_models.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/int4_checkpoint.h"

namespace conclave::engine {
namespace {

using kernels::NumericsClass;
using weights::Checkpoint;
using weights::SquaredError;
using weights::TensorKind;
using weights::WeightFormats;

std::vector<TensorError> Measure(const weights::StoredModel& model, const WeightFormats& formats,
                                 const Checkpoint& exact, int threads = 1) {
  kernels::ThreadPool pool(threads);
  auto measured = MeasureQuantization(model, formats, exact, pool, nullptr);
  EXPECT_TRUE(measured.ok()) << measured.status();
  return *std::move(measured);
}

const TensorError& Of(const std::vector<TensorError>& tensors, const std::string& name) {
  const auto found =
      std::ranges::find_if(tensors, [&](const TensorError& one) { return one.name == name; });
  EXPECT_NE(found, tensors.end()) << name;
  return *found;
}

std::vector<float> Rows(const Checkpoint& checkpoint, const std::string& name, int64_t rows,
                        int64_t columns) {
  std::vector<float> values(static_cast<size_t>(rows * columns));
  checkpoint.ReadRows(name, 0, rows, values);
  return values;
}

// Of groups along a row of `columns` values.
SquaredError ErrorOf(const std::vector<float>& values, int64_t columns,
                     kernels::WeightFormat format) {
  SquaredError sum;
  int8_t integers[kernels::kMaxGroup];
  for (size_t row = 0; row < values.size(); row += static_cast<size_t>(columns)) {
    for (int64_t first = 0; first < columns; first += format.group) {
      const auto count = static_cast<size_t>(std::min<int64_t>(format.group, columns - first));
      const float* group = values.data() + row + first;
      const double scale = kernels::QuantizeGroup(format.type, {group, count}, integers);
      for (size_t k = 0; k < count; ++k) {
        sum.errors += std::pow(group[k] - scale * integers[k], 2);
        sum.weights += std::pow(double{group[k]}, 2);
      }
    }
  }
  return sum;
}

void ExpectNear(const SquaredError& found, const SquaredError& wanted) {
  // The products are rounded to f32 as they are unpacked.
  EXPECT_NEAR(found.errors / wanted.errors, 1, 1e-5);
  EXPECT_NEAR(found.weights / wanted.weights, 1, 1e-9);
}

TEST(QuantizationErrorTest, IsNoneInTheFormatThatIsStored) {
  for (const char* family : {"olmoe", "deepseek_v3"}) {
    const auto checkpoint = OpenGolden(family);
    for (const NumericsClass numerics : {NumericsClass::kF32, NumericsClass::kBf16}) {
      const auto tensors = Measure(*checkpoint, numerics, *checkpoint);
      EXPECT_GT(tensors.size(), 100u);
      for (const TensorError& tensor : tensors) {
        EXPECT_EQ(tensor.error.errors, 0) << tensor.name;
        EXPECT_GT(tensor.error.weights, 0) << tensor.name;
      }
    }
  }
}

TEST(QuantizationErrorTest, IsThatOfTheGroupsOfEachMatrix) {
  const auto checkpoint = OpenGolden("olmoe");
  const weights::ModelConfig& config = checkpoint->config();
  const WeightFormats formats = *weights::ParseWeightFormats("int8:32+int4");
  const auto tensors = Measure(*checkpoint, formats, *checkpoint);
  const std::string query = "model.layers.1.self_attn.q_proj.weight";
  ExpectNear(Of(tensors, query).error,
             ErrorOf(Rows(*checkpoint, query, config.hidden, config.hidden), config.hidden,
                     formats.dense));
  const std::string down = "model.layers.2.mlp.experts.5.down_proj.weight";
  ExpectNear(Of(tensors, down).error,
             ErrorOf(Rows(*checkpoint, down, config.hidden, config.moe.intermediate),
                     config.moe.intermediate, formats.experts));
  EXPECT_EQ(Of(tensors, query).kind, TensorKind::kAttention);
  EXPECT_EQ(Of(tensors, down).kind, TensorKind::kExperts);
}

// Its first rows of each head are quantised along the other dimension.
TEST(QuantizationErrorTest, SumsUpTheHeadsOfAbsorbedMatrices) {
  const auto checkpoint = OpenGolden("deepseek_v3");
  const weights::AttentionConfig& a = checkpoint->config().attention;
  const std::string name = "model.layers.1.self_attn.kv_b_proj.weight";
  const int64_t head_rows = a.qk_nope_head_dim + a.v_head_dim;
  const auto values = Rows(*checkpoint, name, a.num_heads * head_rows, a.kv_lora_rank);
  SquaredError wanted;
  for (int64_t head = 0; head < a.num_heads; ++head) {
    const float* rows = values.data() + head * head_rows * a.kv_lora_rank;
    std::vector<float> turned;
    for (int64_t column = 0; column < a.kv_lora_rank; ++column) {
      for (int64_t row = 0; row < a.qk_nope_head_dim; ++row) {
        turned.push_back(rows[row * a.kv_lora_rank + column]);
      }
    }
    wanted.Add(ErrorOf(turned, a.qk_nope_head_dim, kernels::WeightFormat::kInt4));
    const float* value_rows = rows + int64_t{a.qk_nope_head_dim} * a.kv_lora_rank;
    wanted.Add(ErrorOf({value_rows, value_rows + int64_t{a.v_head_dim} * a.kv_lora_rank},
                       a.kv_lora_rank, kernels::WeightFormat::kInt4));
  }
  ExpectNear(Of(Measure(*checkpoint, NumericsClass::kInt4, *checkpoint), name).error, wanted);
}

TEST(QuantizationErrorTest, KindsAreSumsWithTheirWorstTensor) {
  const auto checkpoint = OpenGolden("deepseek_v3");
  const auto tensors = Measure(*checkpoint, NumericsClass::kInt4, *checkpoint);
  std::map<TensorKind, KindError> by_kind;
  for (const KindError& kind : ByKind(tensors)) by_kind[kind.kind] = kind;
  ASSERT_EQ(by_kind.size(), 5u);
  // Layers 1 and 2 have experts; layer 0 and the shared ones are the FFN. Routers are of no kind.
  EXPECT_EQ(by_kind[TensorKind::kExperts].tensors, 2 * 16 * 3);
  EXPECT_EQ(by_kind[TensorKind::kFfn].tensors, 3 * 3);
  EXPECT_EQ(by_kind[TensorKind::kAttention].tensors, 3 * 5);
  EXPECT_EQ(by_kind[TensorKind::kEmbedding].tensors, 1);
  EXPECT_EQ(by_kind[TensorKind::kLmHead].worst.name, "lm_head.weight");
  SquaredError experts;
  double worst = 0;
  for (const TensorError& tensor : tensors) {
    if (tensor.kind != TensorKind::kExperts) continue;
    experts.Add(tensor.error);
    worst = std::max(worst, tensor.error.Relative());
  }
  EXPECT_EQ(by_kind[TensorKind::kExperts].error.Relative(), experts.Relative());
  EXPECT_EQ(by_kind[TensorKind::kExperts].worst.error.Relative(), worst);
  EXPECT_GT(worst, experts.Relative());
  // The LM head is int8 beside int4, and the table stays in bf16.
  EXPECT_LT(by_kind[TensorKind::kLmHead].error.Relative(), 0.2 * experts.Relative());
  EXPECT_EQ(by_kind[TensorKind::kEmbedding].error.Relative(), 0);
}

// A packed file was checked when it was made; the checkpoint beside it is read as it is now.
TEST(QuantizationErrorTest, WhatTheCheckpointDoesNotSayClearlyIsAnError) {
  const conclave::testing::TempDir dir;
  auto stored = conclave::testing::StoredCheckpoint::Read(conclave::testing::GoldenDir("olmoe"));
  stored.Write(dir.path() / "original");
  conclave::testing::StoreAsInt4(stored, {});
  stored.tensors.at("model.layers.0.self_attn.q_proj.g_idx").data[0] = 1;
  stored.Write(dir.path() / "int4");
  const auto original = Checkpoint::Open(dir.path() / "original", {});
  const auto int4 = Checkpoint::Open(dir.path() / "int4", {});
  ASSERT_TRUE(original.ok() && int4.ok());
  kernels::ThreadPool pool(1);
  const auto measured =
      MeasureQuantization(**original, NumericsClass::kBf16, **int4, pool, nullptr);
  EXPECT_EQ(measured.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(measured.status().message().find("q_proj.g_idx"), std::string::npos);
}

TEST(QuantizationErrorTest, ThreadsChangeNothing) {
  const auto checkpoint = OpenGolden("olmoe");
  const auto one = Measure(*checkpoint, NumericsClass::kInt8, *checkpoint, 1);
  const auto three = Measure(*checkpoint, NumericsClass::kInt8, *checkpoint, 3);
  ASSERT_EQ(one.size(), three.size());
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].name, three[i].name);
    EXPECT_EQ(one[i].error.errors, three[i].error.errors);
    EXPECT_EQ(one[i].error.weights, three[i].error.weights);
  }
}

TEST(QuantizationErrorTest, IsTheSameOfAPackedFile) {
  const testing::TempDir folder;
  for (const char* family : {"olmoe", "deepseek_v3"}) {
    const auto checkpoint = OpenGolden(family);
    const auto packed = PackGolden(*checkpoint, "int4:32", folder.path() / family);
    const WeightFormats formats = *weights::ParseWeightFormats("int4:32");
    const auto made = Measure(*checkpoint, formats, *checkpoint);
    const auto stored = Measure(*packed, formats, *checkpoint);
    ASSERT_EQ(made.size(), stored.size());
    for (size_t i = 0; i < made.size(); ++i) {
      EXPECT_EQ(made[i].name, stored[i].name);
      EXPECT_EQ(made[i].error.errors, stored[i].error.errors) << made[i].name;
    }
    EXPECT_GT(Of(stored, "model.layers.1.mlp.experts.3.up_proj.weight").error.Relative(), 0.01);
  }
}

}  // namespace
}  // namespace conclave::engine
