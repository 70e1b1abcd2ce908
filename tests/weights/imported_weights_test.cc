// Checkpoints of int4 weights: what is loaded and packed has their integers, scales and zero
// points.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>

#include "kernels/panel.h"
#include "kernels/unpack.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/engine_weights.h"
#include "shared/weights/expert_weights.h"
#include "shared/weights/packed_model.h"
#include "shared/weights/packer.h"
#include "shared/weights/stored_formats.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/int4_checkpoint.h"

namespace conclave::weights {
namespace {

using kernels::NumericsClass;
using kernels::PackedMatrix;
using kernels::WeightFormat;
using kernels::WeightType;
using ::testing::AllOf;
using testing::GoldenDir;
using ::testing::HasSubstr;
using testing::Int4Layout;
using testing::Int4Matrix;
using testing::Int4Options;
using testing::kInt4Layouts;
using testing::StoredCheckpoint;
using testing::TempDir;

bool OfExperts(const std::string& name) { return name.find(".experts.") != std::string::npos; }

std::shared_ptr<const Checkpoint> Write(const StoredCheckpoint& stored, const TempDir& dir,
                                        const std::string& name = "c") {
  stored.Write(dir.path() / name);
  auto checkpoint = Checkpoint::Open(dir.path() / name, {});
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? *std::move(checkpoint) : nullptr;
}

// A matrix made in memory of the same integers, in the groups of the kernels.
void ExpectImported(const PackedMatrix& matrix, const Int4Matrix& stored, int32_t group, bool zeros,
                    int64_t first_row = 0) {
  const WeightFormat format{WeightType::kInt4, group, zeros};
  ASSERT_EQ(matrix.format, format);
  ASSERT_EQ(matrix.num_inputs, stored.columns);
  const int64_t groups = (stored.columns + group - 1) / group;
  std::vector<float> scales;
  std::vector<uint8_t> zero_points;
  for (int64_t n = first_row; n < first_row + matrix.num_outputs; ++n) {
    for (int64_t g = 0; g < groups; ++g) {
      const auto at = static_cast<size_t>(n * stored.groups + g * group / stored.group);
      scales.push_back(stored.scales[at]);
      zero_points.push_back(stored.zeros[at]);
    }
  }
  const size_t bytes = kernels::PackedBytes(format, matrix.num_outputs, matrix.num_inputs);
  std::vector<std::byte> wanted(bytes);
  const uint8_t* integers = stored.integers.data() + first_row * stored.columns;
  kernels::PackInt4Rows(format, stored.columns, 0,
                        {kernels::DenseView(integers, matrix.num_outputs, stored.columns),
                         kernels::DenseView<const float>(scales.data(), matrix.num_outputs, groups),
                         zeros ? zero_points.data() : nullptr},
                        wanted.data());
  EXPECT_EQ(std::memcmp(wanted.data(), matrix.data, bytes), 0);
}

class EveryLayout : public ::testing::TestWithParam<Int4Layout> {};
INSTANTIATE_TEST_SUITE_P(Layouts, EveryLayout, ::testing::ValuesIn(kInt4Layouts),
                         [](const auto& info) {
                           std::string name = testing::NameOf(info.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(EveryLayout, ExpertsHaveTheirIntegersScalesAndZeroPoints) {
  const TempDir dir;
  for (const char* model : {"olmoe", "mixtral", "qwen3_moe", "deepseek_v2_lite"}) {
    for (const int64_t group : {32, 64, 128, 256, -1}) {
      for (const bool zeros : {true, false}) {
        if (!zeros && GetParam() == Int4Layout::kAwq) continue;
        SCOPED_TRACE(std::string(model) + " " + std::to_string(group) + (zeros ? " zeros" : ""));
        StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir(model));
        const Int4Options options{GetParam(), group, zeros, /*half=*/group != 64};
        const auto made = testing::StoreAsInt4(stored, options, OfExperts);
        const auto checkpoint = Write(stored, dir);
        ASSERT_NE(checkpoint, nullptr);
        const WeightFormats formats = FormatsOf(*checkpoint, std::nullopt);
        EXPECT_EQ(formats.Label(), group == 64   ? "bf16+int4"
                                   : group == 32 ? "bf16+int4:32"
                                                 : "bf16+int4:128");
        const int32_t kernel_group = group == 32 || group == 64 ? static_cast<int32_t>(group) : 128;
        const bool mixtral = std::string(model) == "mixtral";
        const auto expert = LoadExpert(*checkpoint, formats, {1, 2});
        ASSERT_TRUE(expert.ok()) << expert.status();
        const std::string base =
            "model.layers.1." + std::string(mixtral ? "block_sparse_moe" : "mlp") + ".experts.2.";
        const auto of = [&](const char* name, const char* in_mixtral) {
          return made.at(base + (mixtral ? in_mixtral : name) + ".weight");
        };
        ExpectImported((*expert)->ffn.gate, of("gate_proj", "w1"), kernel_group, zeros);
        ExpectImported((*expert)->ffn.up, of("up_proj", "w3"), kernel_group, zeros);
        ExpectImported((*expert)->ffn.down, of("down_proj", "w2"), kernel_group, zeros);
        EXPECT_EQ((*expert)->error.errors, 0);
        EXPECT_GT((*expert)->error.weights, 0);
        EXPECT_EQ((*expert)->bytes, ExpertBytes(checkpoint->config(), formats));
      }
    }
  }
}

TEST_P(EveryLayout, AttentionAndDenseNetworksToo) {
  const TempDir dir;
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("deepseek_v2_lite"));
  const auto made = testing::StoreAsInt4(stored, {.layout = GetParam(), .group = 32});
  const auto checkpoint = Write(stored, dir);
  ASSERT_NE(checkpoint, nullptr);
  const WeightFormats formats = FormatsOf(*checkpoint, std::nullopt);
  EXPECT_EQ(formats.Label(), "int4:32");
  kernels::ThreadPool pool(2);
  const auto weights = LoadEngineWeights(*checkpoint, formats, nullptr, &pool);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const ModelConfig& config = checkpoint->config();
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const LatentAttentionWeights& attention = *(*weights)->layers[layer].latent;
    ExpectImported(attention.q_b, made.at(prefix + "self_attn.q_proj.weight"), 32, true);
    ExpectImported(attention.kv_a, made.at(prefix + "self_attn.kv_a_proj_with_mqa.weight"), 32,
                   true);
    ExpectImported(attention.o, made.at(prefix + "self_attn.o_proj.weight"), 32, true);
    if (!config.IsMoe(layer)) {
      ExpectImported((*weights)->layers[layer].dense->down,
                     made.at(prefix + "mlp.down_proj.weight"), 32, true);
    } else {
      ExpectImported((*weights)->layers[layer].moe->shared->gate,
                     made.at(prefix + "mlp.shared_experts.gate_proj.weight"), 32, true);
    }
    // Of kv_b the value half of each head is as it was; the key half is a transpose, and quantised
    // from the values that it stands for.
    const Int4Matrix& kv_b = made.at(prefix + "self_attn.kv_b_proj.weight");
    const int64_t nope = config.attention.qk_nope_head_dim, v = config.attention.v_head_dim;
    for (int64_t head = 0; head < config.attention.num_heads; ++head) {
      const int64_t row = head * (nope + v);
      ExpectImported(attention.v_absorbed[head], kv_b, 32, true, row + nope);
      std::vector<float> turned;
      for (int64_t c = 0; c < kv_b.columns; ++c) {
        for (int64_t r = 0; r < nope; ++r) turned.push_back(kv_b.Value(row + r, c));
      }
      const PackedMatrix& key = attention.k_absorbed[head];
      ASSERT_EQ(key.format, (WeightFormat{WeightType::kInt4, 32}));
      std::vector<std::byte> wanted(kernels::PackedBytes(key.format, kv_b.columns, nope));
      kernels::PackRows(key.format, nope, 0,
                        kernels::DenseView<const float>(turned.data(), kv_b.columns, nope),
                        wanted.data());
      EXPECT_EQ(std::memcmp(wanted.data(), key.data, wanted.size()), 0);
    }
  }
  EXPECT_EQ((*weights)->lm_head.format, (WeightFormat{WeightType::kInt8, 32}));
  EXPECT_EQ((*weights)->bytes, EngineBytes(config, formats));
}

TEST_P(EveryLayout, InFloatsItIsWhatTheIntegersStandFor) {
  const TempDir dir;
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("qwen3_moe"));
  const auto made = testing::StoreAsInt4(stored, {.layout = GetParam(), .group = 64});
  const auto checkpoint = Write(stored, dir);
  ASSERT_NE(checkpoint, nullptr);
  // Rows from anywhere to anywhere.
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{3, 10}, {7, 1}, {8, 8}, {5, 60}}) {
    std::vector<float> rows(static_cast<size_t>(count * made.at(name).columns));
    checkpoint->ReadRows(name, first, count, rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto at = static_cast<int64_t>(i);
      ASSERT_EQ(rows[i], made.at(name).Value(first + at / 96, at % 96)) << first << " " << i;
    }
  }
  for (const NumericsClass numerics : {NumericsClass::kF32, NumericsClass::kBf16}) {
    const auto weights = LoadEngineWeights(*checkpoint, FormatsOf(*checkpoint, numerics), nullptr);
    ASSERT_TRUE(weights.ok()) << weights.status();
    const PackedMatrix& o = (*weights)->layers[1].grouped->o;
    const Int4Matrix& matrix = made.at("model.layers.1.self_attn.o_proj.weight");
    ASSERT_EQ(o.format, kernels::WeightFormatOf(numerics));
    std::vector<float> row(static_cast<size_t>(o.num_inputs));
    for (int64_t n = 0; n < o.num_outputs; ++n) {
      kernels::UnpackRows(o, n, kernels::DenseView(row.data(), 1, o.num_inputs));
      for (int64_t k = 0; k < o.num_inputs; ++k) {
        const float value = matrix.Value(n, k);
        ASSERT_EQ(row[static_cast<size_t>(k)], numerics == NumericsClass::kF32
                                                   ? value
                                                   : kernels::ToFloat(kernels::ToBf16(value)));
      }
    }
  }
}

PackInput InputOf(const Checkpoint& checkpoint, const WeightFormats& formats,
                  const StoredCheckpoint& stored) {
  return {.config = &checkpoint.config(),
          .tensors = &checkpoint,
          .fingerprint = checkpoint.Fingerprint(formats.Label()),
          .texts = {{"config.json", stored.config.dump()}}};
}

void ExpectSame(const PackedMatrix& one, const PackedMatrix& other) {
  ASSERT_EQ(one.format, other.format);
  const size_t bytes = kernels::PackedBytes(one.format, one.num_outputs, one.num_inputs);
  EXPECT_EQ(std::memcmp(one.data, other.data, bytes), 0);
}

TEST_P(EveryLayout, WhatIsPackedIsWhatLoadingMakes) {
  const TempDir dir;
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("deepseek_v2_lite"));
  testing::StoreAsInt4(stored, {.layout = GetParam(), .group = 32});
  const auto checkpoint = Write(stored, dir);
  ASSERT_NE(checkpoint, nullptr);
  const WeightFormats formats = FormatsOf(*checkpoint, std::nullopt);
  const PackInput input = InputOf(*checkpoint, formats, stored);
  kernels::ThreadPool pool(2);
  for (const uint64_t batch : {uint64_t{128} << 20, uint64_t{3000}}) {
    PackOptions options;
    options.formats = formats;
    options.batch_bytes = batch;
    options.pool = &pool;
    options.replace = true;
    ASSERT_TRUE(Pack(input, dir.path() / "p", options).ok());
    const auto packed = PackedModel::Open(dir.path() / "p", {});
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ((*packed)->Fingerprint("int4:32"), checkpoint->Fingerprint("int4:32"));
    const auto made = *LoadEngineWeights(*checkpoint, formats, nullptr);
    const auto mapped = LoadEngineWeights(**packed, formats, nullptr);
    ASSERT_TRUE(mapped.ok()) << mapped.status();
    for (size_t layer = 0; layer < made->layers.size(); ++layer) {
      const LatentAttentionWeights &one = *made->layers[layer].latent,
                                   &other = *(*mapped)->layers[layer].latent;
      ExpectSame(one.q_b, other.q_b);
      ExpectSame(one.o, other.o);
      ExpectSame(one.v_absorbed[1], other.v_absorbed[1]);
      ExpectSame(one.k_absorbed[1], other.k_absorbed[1]);
      EXPECT_TRUE(other.o.format.zeros);
    }
    const auto made_expert = *LoadExpert(*checkpoint, formats, {1, 3});
    const auto mapped_expert = *LoadExpert(**packed, formats, {1, 3});
    ExpectSame(made_expert->ffn.gate, mapped_expert->ffn.gate);
    ExpectSame(made_expert->ffn.down, mapped_expert->ffn.down);
    EXPECT_EQ(mapped_expert->error.errors, 0);
    EXPECT_GT(mapped_expert->error.weights, 0);
  }
}

// The identity of a model tells what it was made of, and how it was stored.
TEST(ImportedWeightsTest, FingerprintsTellImportedWeightsFromQuantisedOnes) {
  const TempDir dir;
  std::vector<std::string> found;
  const StoredCheckpoint original = StoredCheckpoint::Read(GoldenDir("olmoe"));
  found.push_back(Write(original, dir, "original")->Fingerprint("int4:32"));
  for (const Int4Layout layout : kInt4Layouts) {
    StoredCheckpoint stored = original;
    testing::StoreAsInt4(stored, {.layout = layout, .group = 32});
    found.push_back(Write(stored, dir, testing::NameOf(layout))->Fingerprint("int4:32"));
    EXPECT_EQ(found.back(), Write(stored, dir, "again")->Fingerprint("int4:32"));
    EXPECT_NE(found.back(), Write(stored, dir, "again")->Fingerprint("bf16"));
    // Any part counts.
    const std::string base = "model.layers.0.self_attn.q_proj";
    for (const char* part : {".qzeros", ".scales", ".weight_zero_point", ".weight_scale"}) {
      StoredCheckpoint other = stored;
      const auto tensor = other.tensors.find(base + part);
      if (tensor == other.tensors.end()) continue;
      tensor->second.data[0] ^= 1;
      EXPECT_NE(found.back(), Write(other, dir, "other")->Fingerprint("int4:32")) << part;
    }
  }
  std::sort(found.begin(), found.end());
  EXPECT_EQ(std::unique(found.begin(), found.end()), found.end());
}

TEST(ImportedWeightsTest, ClassesKeepWhatIsStored) {
  const TempDir dir;
  const auto labels = [&](bool experts_alone) {
    StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
    testing::StoreAsInt4(stored, {.group = 128},
                         experts_alone ? OfExperts : std::function<bool(const std::string&)>());
    const auto checkpoint = Write(stored, dir);
    std::vector<std::string> labels = {FormatsOf(*checkpoint, std::nullopt).Label()};
    for (const NumericsClass each : kernels::kNumericsClasses) {
      labels.push_back(FormatsOf(*checkpoint, each).Label());
    }
    return labels;
  };
  using Labels = std::vector<std::string>;
  EXPECT_EQ(labels(true), (Labels{"bf16+int4:128", "f32", "bf16", "int8+int4:128", "int4:128"}));
  EXPECT_EQ(labels(false), (Labels{"int4:128", "f32", "bf16", "int8+int4:128", "int4:128"}));
  const auto plain = Write(StoredCheckpoint::Read(GoldenDir("olmoe")), dir);
  EXPECT_EQ(FormatsOf(*plain, std::nullopt).Label(), "bf16");
  EXPECT_EQ(FormatsOf(*plain, NumericsClass::kInt4).Label(), "int4");
}

// A head has no integers to become: neither int4, nor int8, which would round it again.
TEST(ImportedWeightsTest, AHeadOfInt4LeavesAttentionInFloats) {
  const TempDir dir;
  for (const bool tied : {false, true}) {
    SCOPED_TRACE(tied);
    const Int4Options options{.group = 128};
    const std::string name = tied ? "model.embed_tokens.weight" : "lm_head.weight";
    StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
    if (tied) {
      stored.config["tie_word_embeddings"] = true;
      stored.tensors.erase("lm_head.weight");
    }
    testing::StoreAsInt4(stored, options);
    const testing::RawTensor tensor = stored.tensors.at(name);
    const int64_t rows = tensor.shape[0], columns = tensor.shape[1];
    const Int4Matrix head = testing::ToInt4(testing::Values(tensor), rows, columns, options);
    testing::PutInt4(stored, name, head, options);
    stored.config["quantization_config"]["lm_head"] = true;
    const auto checkpoint = Write(stored, dir);
    ASSERT_NE(checkpoint, nullptr);
    const WeightFormats formats = FormatsOf(*checkpoint, std::nullopt);
    EXPECT_EQ(formats.Label(), "bf16+int4:128");
    EXPECT_TRUE(CheckFormats(*checkpoint, formats).ok());
    const auto weights = LoadEngineWeights(*checkpoint, formats, nullptr);
    ASSERT_TRUE(weights.ok()) << weights.status();
    std::vector<float> row(static_cast<size_t>(columns));
    for (const int64_t n : {int64_t{0}, rows - 1}) {
      kernels::UnpackRows((*weights)->lm_head, n, kernels::DenseView(row.data(), 1, columns));
      for (int64_t k = 0; k < columns; ++k) {
        ASSERT_EQ(row[static_cast<size_t>(k)], kernels::ToFloat(kernels::ToBf16(head.Value(n, k))));
      }
    }
    for (const NumericsClass numerics : {NumericsClass::kInt8, NumericsClass::kInt4}) {
      // Attention in int8 is refused first.
      const WeightFormats refused = numerics == NumericsClass::kInt4
                                        ? FormatsOf(*checkpoint, numerics)
                                        : *ParseWeightFormats("int4:128+int8");
      const absl::Status status = CheckFormats(*checkpoint, refused);
      EXPECT_EQ(status, LoadEngineWeights(*checkpoint, refused, nullptr).status());
      EXPECT_THAT(
          std::string(status.message()),
          AllOf(HasSubstr("matrix " + name + " is stored as int4:128, wanted int8:128"),
                HasSubstr("LM heads are never int4, so choose bf16 for all but the routed experts"),
                HasSubstr("--format bf16 --experts int4:128")));
    }
  }
  // An embedding that is no head is a table of floats, whatever the rest is.
  const Int4Options options{.group = 128};
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
  testing::StoreAsInt4(stored, options);
  const testing::RawTensor tensor = stored.tensors.at("model.embed_tokens.weight");
  testing::PutInt4(
      stored, "model.embed_tokens.weight",
      testing::ToInt4(testing::Values(tensor), tensor.shape[0], tensor.shape[1], options), options);
  const auto checkpoint = Write(stored, dir);
  ASSERT_NE(checkpoint, nullptr);
  EXPECT_EQ(FormatsOf(*checkpoint, std::nullopt).Label(), "int4:128");
  EXPECT_TRUE(LoadEngineWeights(*checkpoint, *ParseWeightFormats("int4:128"), nullptr).ok());
}

TEST(ImportedWeightsTest, FormatsThatCannotBeMadeAreToldBeforeAnyIsMade) {
  const TempDir dir;
  const auto labels = [&](const std::function<bool(const std::string&)>& which) {
    StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
    testing::StoreAsInt4(stored, {.group = 32}, which);
    const auto checkpoint = Write(stored, dir);
    std::vector<std::string> labels;
    for (const char* label : {"f32", "bf16", "int8", "int4", "int8+int4:32", "int4:32"}) {
      const WeightFormats formats = *ParseWeightFormats(label);
      absl::Status made = LoadEngineWeights(*checkpoint, formats, nullptr).status();
      if (made.ok()) made = LoadExpert(*checkpoint, formats, {0, 0}).status();
      EXPECT_EQ(CheckFormats(*checkpoint, formats), made) << label;
      if (made.ok()) labels.push_back(label);
    }
    return labels;
  };
  using Labels = std::vector<std::string>;
  EXPECT_EQ(labels(nullptr), (Labels{"f32", "bf16", "int4:32"}));
  EXPECT_EQ(labels(OfExperts), (Labels{"f32", "bf16", "int8+int4:32", "int4:32"}));
  EXPECT_EQ(labels([](const std::string& name) { return !OfExperts(name); }),
            (Labels{"f32", "bf16", "int4:32"}));
}

TEST(ImportedWeightsTest, IntegersThatWouldBeRoundedAgainAreRefused) {
  const TempDir dir;
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
  testing::StoreAsInt4(stored, {.group = 128});
  const auto checkpoint = Write(stored, dir);
  for (const char* label : {"int8", "int4", "int8+int4:128", "int4:128+int8", "int4:32"}) {
    const WeightFormats formats = *ParseWeightFormats(label);
    const absl::Status status = Pack(InputOf(*checkpoint, formats, stored), dir.path() / "p",
                                     {.formats = formats, .pool = nullptr, .progress = nullptr});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << label;
    EXPECT_THAT(
        std::string(status.message()),
        AllOf(HasSubstr("is stored as int4:128, wanted int"),
              HasSubstr("would round its weights a second time"), HasSubstr("_proj.weight")));
    EXPECT_FALSE(std::filesystem::exists(dir.path() / "p"));
  }
  const auto dense = LoadEngineWeights(*checkpoint, *ParseWeightFormats("int8"), nullptr);
  EXPECT_EQ(dense.status().code(), absl::StatusCode::kInvalidArgument);
  const auto expert = LoadExpert(*checkpoint, *ParseWeightFormats("int8"), {0, 0});
  EXPECT_THAT(std::string(expert.status().message()), HasSubstr("experts.0.gate_proj.weight"));
}

// Writers of GPTQ give matrices a bias that the model does not have.
TEST(ImportedWeightsTest, BiasesOfZerosAreNone) {
  const TempDir dir;
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
  testing::StoreAsInt4(stored, {});
  const std::string bias = "model.layers.0.mlp.experts.0.gate_proj.bias";
  stored.tensors[bias] = {"F16", {32}, std::string(64, '\0')};
  EXPECT_NE(Write(stored, dir), nullptr);
  stored.tensors[bias].data[9] = 1;
  stored.Write(dir.path() / "c");
  const absl::Status status = Checkpoint::Open(dir.path() / "c", {}).status();
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(bias), HasSubstr("unexpected")));
}

}  // namespace
}  // namespace conclave::weights
