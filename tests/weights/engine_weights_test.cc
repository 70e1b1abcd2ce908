#include "shared/weights/engine_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "kernels/bf16.h"
#include "kernels/panel.h"
#include "kernels/quantize.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/expert_weights.h"
#include "shared/weights/tensor_table.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/stored_checkpoint.h"

namespace conclave::weights {
namespace {

using kernels::NumericsClass;
using kernels::WeightFormat;
using testing::Bf16Tensor;
using testing::GoldenDir;
using testing::StoredCheckpoint;
using testing::Values;

std::unique_ptr<Checkpoint> Open(const std::filesystem::path& dir) {
  auto checkpoint = Checkpoint::Open(dir, {});
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return *std::move(checkpoint);
}

// Element (output, input) of a packed matrix, by the layout that kernels/matrix.h states.
float Element(const kernels::PackedMatrix& matrix, int64_t output, int64_t input) {
  const int64_t panel = output / kernels::kPanelOutputs;
  const int64_t lane = output % kernels::kPanelOutputs;
  if (matrix.format == WeightFormat::kF32) {
    const int64_t index = (panel * matrix.num_inputs + input) * kernels::kPanelOutputs + lane;
    float value;
    std::memcpy(&value, matrix.data + index * 4, 4);
    return value;
  }
  const int64_t pairs = (matrix.num_inputs + 1) / 2;
  const int64_t index =
      ((panel * pairs + input / 2) * kernels::kPanelOutputs + lane) * 2 + input % 2;
  kernels::bf16 value;
  std::memcpy(&value, matrix.data + index * 2, 2);
  return kernels::ToFloat(value);
}

// The packed matrix holds rows [first_row, ...) of `stored`, bit for bit.
// Every group of an integer matrix is what quantising those of `values` gives.
void ExpectGroups(const kernels::PackedMatrix& matrix, const float* values) {
  const WeightFormat format = matrix.format;
  for (int64_t r = 0; r < matrix.num_outputs; ++r) {
    const std::byte* panel = matrix.data + static_cast<size_t>(r / kernels::kPanelOutputs) *
                                               kernels::PanelBytes(format, matrix.num_inputs);
    const int64_t lane = r % kernels::kPanelOutputs;
    for (int64_t first = 0; first < matrix.num_inputs; first += format.group) {
      const auto count =
          static_cast<size_t>(std::min<int64_t>(format.group, matrix.num_inputs - first));
      std::vector<int8_t> integers(count);
      const float scale = kernels::QuantizeGroup(
          format.type, {values + r * matrix.num_inputs + first, count}, integers.data());
      const kernels::GroupPanel group(
          format, panel + first / format.group * kernels::StepPanelBytes(format));
      ASSERT_EQ(group.scale(lane), scale) << "at " << r << ", " << first;
      for (size_t k = 0; k < count; ++k) {
        ASSERT_EQ(group.value(static_cast<int64_t>(k), lane), integers[k]) << "at " << r;
      }
    }
  }
}

// The matrix holds `values` [num_outputs, num_inputs], which its format says exactly or quantises.
void ExpectMatrix(const kernels::PackedMatrix& matrix, const float* values) {
  if (matrix.format.integers()) {
    ExpectGroups(matrix, values);
    return;
  }
  for (int64_t r = 0; r < matrix.num_outputs; ++r) {
    for (int64_t c = 0; c < matrix.num_inputs; ++c) {
      ASSERT_EQ(Element(matrix, r, c), values[r * matrix.num_inputs + c])
          << "at " << r << ", " << c;
    }
  }
}

void ExpectRows(const kernels::PackedMatrix& matrix, WeightFormat format,
                const testing::RawTensor& stored, int64_t first_row = 0) {
  ASSERT_EQ(matrix.format, format);
  ASSERT_EQ(matrix.num_inputs, stored.shape[1]);
  const std::vector<float> values = Values(stored);
  ExpectMatrix(matrix, values.data() + first_row * matrix.num_inputs);
}

class EveryClass : public ::testing::TestWithParam<NumericsClass> {
 protected:
  WeightFormat format() const { return kernels::WeightFormatOf(GetParam()); }
  WeightFormat table_format() const { return kernels::TableFormatOf(GetParam()); }
  WeightFormat head_format() const {
    switch (GetParam()) {
      case kernels::NumericsClass::kF32:
        return WeightFormat::kF32;
      case kernels::NumericsClass::kBf16:
        return WeightFormat::kBf16;
      default:
        return WeightFormat::kInt8;
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Classes, EveryClass, ::testing::ValuesIn(kernels::kNumericsClasses),
                         [](const auto& info) {
                           return std::string(kernels::NumericsClassName(info.param));
                         });

TEST_P(EveryClass, LoadsEveryGoldenModel) {
  for (const char* model : testing::kGoldenModels) {
    SCOPED_TRACE(model);
    const auto checkpoint = Open(GoldenDir(model));
    int64_t last_done = 0;
    int calls = 0;
    const auto weights =
        LoadEngineWeights(*checkpoint, GetParam(), [&](int64_t done, int64_t total) {
          EXPECT_GT(done, last_done);
          EXPECT_LE(done, total);
          EXPECT_EQ(static_cast<size_t>(total), EngineBytes(checkpoint->config(), GetParam()));
          last_done = done;
          ++calls;
        });
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ((*weights)->bytes, EngineBytes(checkpoint->config(), GetParam()));
    EXPECT_EQ(static_cast<size_t>(last_done), (*weights)->bytes);
    EXPECT_EQ(calls, checkpoint->config().num_layers + 2);  // the embedding, layers, the LM head
    ASSERT_EQ((*weights)->layers.size(), static_cast<size_t>(checkpoint->config().num_layers));
    for (int32_t layer = 0; layer < checkpoint->config().num_layers; ++layer) {
      const LayerWeights& loaded = (*weights)->layers[static_cast<size_t>(layer)];
      EXPECT_EQ(loaded.moe.has_value(), checkpoint->config().IsMoe(layer));
      EXPECT_EQ(loaded.dense.has_value(), !checkpoint->config().IsMoe(layer));
      EXPECT_NE(loaded.latent.has_value(), loaded.grouped.has_value());
    }
  }
}

TEST_P(EveryClass, PacksGroupedAttentionAsStored) {
  const StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("qwen2_moe"));
  const auto weights = *LoadEngineWeights(*Open(GoldenDir("qwen2_moe")), GetParam(), nullptr);
  const GroupedAttentionWeights& attention = *weights->layers[1].grouped;
  const std::string prefix = "model.layers.1.self_attn.";
  ExpectRows(attention.q, format(), stored.tensors.at(prefix + "q_proj.weight"));
  ExpectRows(attention.k, format(), stored.tensors.at(prefix + "k_proj.weight"));
  ExpectRows(attention.v, format(), stored.tensors.at(prefix + "v_proj.weight"));
  ExpectRows(attention.o, format(), stored.tensors.at(prefix + "o_proj.weight"));
  EXPECT_EQ(attention.q_bias, Values(stored.tensors.at(prefix + "q_proj.bias")));
  EXPECT_EQ(attention.k_bias, Values(stored.tensors.at(prefix + "k_proj.bias")));
  EXPECT_EQ(attention.v_bias, Values(stored.tensors.at(prefix + "v_proj.bias")));
  EXPECT_TRUE(attention.q_norm.empty());
  EXPECT_EQ(weights->layers[1].attention_norm,
            Values(stored.tensors.at("model.layers.1.input_layernorm.weight")));
  EXPECT_EQ(weights->layers[1].ffn_norm,
            Values(stored.tensors.at("model.layers.1.post_attention_layernorm.weight")));
  EXPECT_EQ(weights->final_norm, Values(stored.tensors.at("model.norm.weight")));
  ExpectRows(weights->lm_head, head_format(), stored.tensors.at("lm_head.weight"));
}

TEST_P(EveryClass, KeepsRouterAndSharedGateInF32) {
  const StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("qwen2_moe"));
  const auto weights = *LoadEngineWeights(*Open(GoldenDir("qwen2_moe")), GetParam(), nullptr);
  const MoeLayerWeights& moe = *weights->layers[0].moe;
  ExpectRows(moe.router, WeightFormat::kF32, stored.tensors.at("model.layers.0.mlp.gate.weight"));
  ExpectRows(moe.shared_gate, WeightFormat::kF32,
             stored.tensors.at("model.layers.0.mlp.shared_expert_gate.weight"));
  ExpectRows(moe.shared->gate, format(),
             stored.tensors.at("model.layers.0.mlp.shared_expert.gate_proj.weight"));
  ExpectRows(moe.shared->up, format(),
             stored.tensors.at("model.layers.0.mlp.shared_expert.up_proj.weight"));
  ExpectRows(moe.shared->down, format(),
             stored.tensors.at("model.layers.0.mlp.shared_expert.down_proj.weight"));
  ExpectRows(weights->layers[2].dense->up, format(),
             stored.tensors.at("model.layers.2.mlp.up_proj.weight"));
}

TEST_P(EveryClass, SplitsKvBIntoItsAbsorbedFactors) {
  const StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("deepseek_v2_lite"));
  const auto checkpoint = Open(GoldenDir("deepseek_v2_lite"));
  const auto weights = *LoadEngineWeights(*checkpoint, GetParam(), nullptr);
  const AttentionConfig& a = checkpoint->config().attention;
  for (size_t layer : {size_t{0}, size_t{3}}) {
    const testing::RawTensor& kv_b =
        stored.tensors.at("model.layers." + std::to_string(layer) + ".self_attn.kv_b_proj.weight");
    const std::vector<float> values = Values(kv_b);
    const LatentAttentionWeights& latent = *weights->layers[layer].latent;
    ASSERT_EQ(latent.k_absorbed.size(), static_cast<size_t>(a.num_heads));
    ASSERT_EQ(latent.v_absorbed.size(), static_cast<size_t>(a.num_heads));
    for (int64_t head = 0; head < a.num_heads; ++head) {
      const int64_t first = head * (a.qk_nope_head_dim + a.v_head_dim);
      const kernels::PackedMatrix& k = latent.k_absorbed[static_cast<size_t>(head)];
      ASSERT_EQ(k.format, format());
      ASSERT_EQ(k.num_outputs, a.kv_lora_rank);
      ASSERT_EQ(k.num_inputs, a.qk_nope_head_dim);
      std::vector<float> transposed;
      for (int64_t l = 0; l < a.kv_lora_rank; ++l) {
        for (int64_t n = 0; n < a.qk_nope_head_dim; ++n) {
          transposed.push_back(values[static_cast<size_t>((first + n) * a.kv_lora_rank + l)]);
        }
      }
      ExpectMatrix(k, transposed.data());
      const kernels::PackedMatrix& v = latent.v_absorbed[static_cast<size_t>(head)];
      ASSERT_EQ(v.num_outputs, a.v_head_dim);
      ExpectRows(v, format(), kv_b, first + a.qk_nope_head_dim);
    }
    EXPECT_TRUE(latent.q_a.empty());
    EXPECT_EQ(latent.kv_a_norm.size(), static_cast<size_t>(a.kv_lora_rank));
  }
}

TEST_P(EveryClass, LoadsExpertsAsStored) {
  for (const char* model : {"mixtral", "deepseek_v2_full"}) {
    SCOPED_TRACE(model);
    const bool mixtral = std::string(model) == "mixtral";
    const StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir(model));
    const auto checkpoint = Open(GoldenDir(model));
    const auto expert = LoadExpert(*checkpoint, GetParam(), {.layer = 2, .expert = 5});
    ASSERT_TRUE(expert.ok()) << expert.status();
    EXPECT_EQ((*expert)->buffer.capacity_bytes(), ExpertBytes(checkpoint->config(), GetParam()));
    const std::string prefix =
        mixtral ? "model.layers.2.block_sparse_moe.experts.5." : "model.layers.2.mlp.experts.5.";
    const kernels::FfnWeights& ffn = (*expert)->ffn;
    ExpectRows(ffn.gate, format(),
               stored.tensors.at(prefix + (mixtral ? "w1.weight" : "gate_proj.weight")));
    ExpectRows(ffn.up, format(),
               stored.tensors.at(prefix + (mixtral ? "w3.weight" : "up_proj.weight")));
    ExpectRows(ffn.down, format(),
               stored.tensors.at(prefix + (mixtral ? "w2.weight" : "down_proj.weight")));
  }
}

TEST_P(EveryClass, EmbedsRows) {
  const StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
  const auto weights = *LoadEngineWeights(*Open(GoldenDir("olmoe")), GetParam(), nullptr);
  const std::vector<float> table = Values(stored.tensors.at("model.embed_tokens.weight"));
  const size_t hidden = 96;
  const std::vector<int32_t> ids = {495, 0, 7, 7};
  std::vector<float> output(ids.size() * hidden, -1);
  weights->Embed(ids, kernels::DenseView(output.data(), 4, 96));
  for (size_t i = 0; i < ids.size(); ++i) {
    for (size_t c = 0; c < hidden; ++c) {
      ASSERT_EQ(output[i * hidden + c], table[static_cast<size_t>(ids[i]) * hidden + c]);
    }
  }
}

TEST_P(EveryClass, TiedHeadIsTheEmbedding) {
  testing::TempDir dir;
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  stored.config["tie_word_embeddings"] = true;
  stored.tensors.erase("lm_head.weight");
  stored.Write(dir.path());
  const auto weights = *LoadEngineWeights(*Open(dir.path()), GetParam(), nullptr);
  ExpectRows(weights->lm_head, head_format(), stored.tensors.at("model.embed_tokens.weight"));
}

TEST(EngineWeightsTest, RoundsF32ToNearestEvenInBf16) {
  testing::TempDir dir;
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  testing::RawTensor& q = stored.tensors.at("model.layers.0.self_attn.q_proj.weight");
  std::vector<float> values = Values(q);
  values[0] = std::bit_cast<float>(0x3f808000u);  // halfway between 1 and its successor: to 1
  values[1] = std::bit_cast<float>(0x3f818000u);  // halfway, to the even one above
  values[2] = std::bit_cast<float>(0x3f808001u);  // just above halfway
  q = testing::FloatTensor(q.shape, values);
  stored.Write(dir.path());
  const auto checkpoint = Open(dir.path());
  const auto rounded = *LoadEngineWeights(*checkpoint, NumericsClass::kBf16, nullptr);
  EXPECT_EQ(Element(rounded->layers[0].grouped->q, 0, 0), 1.0f);
  EXPECT_EQ(Element(rounded->layers[0].grouped->q, 0, 1), std::bit_cast<float>(0x3f820000u));
  EXPECT_EQ(Element(rounded->layers[0].grouped->q, 0, 2), std::bit_cast<float>(0x3f810000u));
  const auto exact = *LoadEngineWeights(*checkpoint, NumericsClass::kF32, nullptr);
  EXPECT_EQ(Element(exact->layers[0].grouped->q, 0, 0), values[0]);
}

TEST(EngineWeightsTest, RefusesInfinitiesByName) {
  testing::TempDir dir;
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  testing::RawTensor& norm = stored.tensors.at("model.layers.1.input_layernorm.weight");
  norm.data[1] = 0x7f;
  norm.data[0] = static_cast<char>(0x80);
  testing::RawTensor& expert =
      stored.tensors.at("model.layers.2.block_sparse_moe.experts.3.w2.weight");
  expert.data[1] = 0x7f;
  expert.data[0] = static_cast<char>(0xc0);
  stored.Write(dir.path());
  const auto checkpoint = Open(dir.path());
  const auto weights = LoadEngineWeights(*checkpoint, NumericsClass::kBf16, nullptr);
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(weights.status().message().find("model.layers.1.input_layernorm.weight"),
            absl::string_view::npos)
      << weights.status();
  EXPECT_TRUE(LoadExpert(*checkpoint, NumericsClass::kBf16, {2, 2}).ok());
  const auto damaged = LoadExpert(*checkpoint, NumericsClass::kBf16, {2, 3});
  EXPECT_EQ(damaged.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(damaged.status().message().find("model.layers.2.mlp.experts.3.down_proj"),
            absl::string_view::npos)
      << damaged.status();
}

TEST_P(EveryClass, ThreadsLoadTheSameBits) {
  kernels::ThreadPool pool(3);
  for (const char* model : testing::kGoldenModels) {
    SCOPED_TRACE(model);
    const auto checkpoint = Open(GoldenDir(model));
    const auto alone = *LoadEngineWeights(*checkpoint, GetParam(), nullptr);
    const auto together = *LoadEngineWeights(*checkpoint, GetParam(), nullptr, &pool);
    // The embedding is the first thing in the buffer: from there on all of it is compared.
    EXPECT_EQ(std::memcmp(alone->embedding.data(), together->embedding.data(), alone->bytes), 0);
    for (const TensorKind kind : kTensorKinds) {
      EXPECT_EQ(alone->errors.Of(kind).errors, together->errors.Of(kind).errors);
      EXPECT_EQ(alone->errors.Of(kind).weights, together->errors.Of(kind).weights);
    }
    const ExpertId id{.layer = checkpoint->config().num_layers - 1, .expert = 1};
    const auto expert_alone = *LoadExpert(*checkpoint, GetParam(), id);
    const auto expert_together = *LoadExpert(*checkpoint, GetParam(), id, &pool);
    EXPECT_EQ(std::memcmp(expert_alone->ffn.gate.data, expert_together->ffn.gate.data,
                          expert_alone->buffer.capacity_bytes()),
              0);
  }
}

TEST(EngineWeightsTest, SampledErrorsAreOfARowIn64) {
  const auto checkpoint = Open(GoldenDir("deepseek_v3"));
  const ModelConfig& config = checkpoint->config();
  const auto columns = static_cast<size_t>(config.hidden);
  ASSERT_GT(config.vocab_size, 64);
  SquaredError wanted;
  for (int64_t row = 0; row < config.vocab_size; row += 64) {
    std::vector<float> exact(columns), quantized;
    checkpoint->ReadRows(kLmHeadName, row, 1, exact);
    for (size_t first = 0; first < columns; first += 64) {
      int8_t integers[kernels::kMaxGroup];
      const size_t count = std::min<size_t>(64, columns - first);
      const float scale = kernels::QuantizeGroup(kernels::WeightType::kInt8,
                                                 {exact.data() + first, count}, integers);
      for (size_t k = 0; k < count; ++k) {
        quantized.push_back(scale * static_cast<float>(integers[k]));
      }
    }
    wanted.Add(exact, quantized);
  }
  const auto weights = *LoadEngineWeights(*checkpoint, NumericsClass::kInt4, nullptr);
  const SquaredError& head = weights->errors.Of(TensorKind::kLmHead);
  EXPECT_GT(head.errors, 0);
  EXPECT_NEAR(head.errors / wanted.errors, 1, 1e-12);
  EXPECT_NEAR(head.weights / wanted.weights, 1, 1e-12);
  // bf16, as it is stored; what others hold is theirs to say.
  EXPECT_EQ(weights->errors.Of(TensorKind::kEmbedding).errors, 0);
  EXPECT_GT(weights->errors.Of(TensorKind::kEmbedding).weights, 0);
  EXPECT_EQ(weights->errors.Of(TensorKind::kExperts).weights, 0);
}

TEST(EngineWeightsTest, SampledErrorsAreLikeThoseOfAll) {
  const auto checkpoint = Open(GoldenDir("deepseek_v3"));
  const auto int8 = *LoadEngineWeights(*checkpoint, NumericsClass::kInt8, nullptr);
  const auto int4 = *LoadEngineWeights(*checkpoint, NumericsClass::kInt4, nullptr);
  for (const TensorKind kind : {TensorKind::kAttention, TensorKind::kFfn}) {
    EXPECT_GT(int8->errors.Of(kind).Relative(), 0.003) << TensorKindName(kind);
    EXPECT_LT(int8->errors.Of(kind).Relative(), 0.01) << TensorKindName(kind);
    EXPECT_GT(int4->errors.Of(kind).Relative(), 0.05) << TensorKindName(kind);
    EXPECT_LT(int4->errors.Of(kind).Relative(), 0.15) << TensorKindName(kind);
  }
  const auto expert = *LoadExpert(*checkpoint, NumericsClass::kInt4, {1, 3});
  EXPECT_GT(expert->error.Relative(), 0.05);
  EXPECT_LT(expert->error.Relative(), 0.15);
}

TEST(EngineWeightsTest, RefusesAFileWrittenToAfterOpening) {
  testing::TempDir dir;
  StoredCheckpoint::Read(GoldenDir("mixtral")).Write(dir.path());
  const auto checkpoint = Open(dir.path());
  const auto file = dir.path() / "model.safetensors";
  std::filesystem::resize_file(file, std::filesystem::file_size(file) + 1);
  const auto weights = LoadEngineWeights(*checkpoint, NumericsClass::kF32, nullptr);
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(weights.status().message().find(file.string()), absl::string_view::npos);
  EXPECT_EQ(LoadExpert(*checkpoint, NumericsClass::kF32, {0, 0}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(ExpertWeightsTest, UnknownExpertIsNotFound) {
  const auto checkpoint = Open(GoldenDir("deepseek_v3"));
  for (const ExpertId id :
       {ExpertId{0, 0}, ExpertId{3, 0}, ExpertId{-1, 0}, ExpertId{1, 16}, ExpertId{1, -1}}) {
    EXPECT_EQ(LoadExpert(*checkpoint, NumericsClass::kF32, id).status().code(),
              absl::StatusCode::kNotFound);
  }
  EXPECT_TRUE(LoadExpert(*checkpoint, NumericsClass::kF32, {1, 15}).ok());
}

}  // namespace
}  // namespace conclave::weights
