#include "shared/weights/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <utility>

#include "kernels/bf16.h"
#include "shared/weights/dtype.h"
#include "shared/weights/tensor_table.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/stored_checkpoint.h"

namespace conclave::weights {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::Bf16Tensor;
using testing::FloatTensor;
using testing::GoldenDir;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::RawTensor;
using testing::StoredCheckpoint;
using testing::Values;

std::vector<float> ReadAll(const Checkpoint& checkpoint, const std::string& name, int64_t rows,
                           int64_t columns) {
  std::vector<float> values(static_cast<size_t>(rows * columns));
  checkpoint.ReadRows(name, 0, rows, values);
  return values;
}

// All canonical tensors of two checkpoints hold the same numbers.
void ExpectSameTensors(const Checkpoint& a, const Checkpoint& b) {
  for (const TensorSpec& spec : TensorTable(a.config())) {
    const int64_t columns = spec.shape.size() == 2 ? spec.shape[1] : 1;
    ASSERT_EQ(ReadAll(a, spec.name, spec.shape[0], columns),
              ReadAll(b, spec.name, spec.shape[0], columns))
        << spec.name;
  }
}

class CheckpointTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const StoredCheckpoint& stored) {
    stored.Write(dir_.path());
    return Checkpoint::Open(dir_.path(), {});
  }
  void ExpectRefused(const StoredCheckpoint& stored, absl::StatusCode code,
                     const std::string& message) {
    const absl::Status status = Open(stored).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_THAT(std::string(status.message()), HasSubstr(dir_.path().string()));
  }
  void ExpectInvalid(const StoredCheckpoint& stored, const std::string& message) {
    ExpectRefused(stored, absl::StatusCode::kInvalidArgument, message);
  }

  testing::TempDir dir_;
};

TEST_F(CheckpointTest, OpensEveryGoldenModel) {
  for (const char* model : testing::kGoldenModels) {
    SCOPED_TRACE(model);
    const auto checkpoint = Checkpoint::Open(GoldenDir(model), {.config = {.strict = true}});
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_THAT((*checkpoint)->warnings(), IsEmpty());
    EXPECT_EQ((*checkpoint)->path(), GoldenDir(model));
    // Every golden tensor is read, and nothing else.
    int64_t bytes = 0;
    for (const auto& [name, tensor] : StoredCheckpoint::Read(GoldenDir(model)).tensors) {
      bytes += static_cast<int64_t>(tensor.data.size());
    }
    EXPECT_EQ((*checkpoint)->weight_bytes(), bytes);
  }
}

TEST_F(CheckpointTest, ReadsRangesOfRows) {
  const auto checkpoint = *Checkpoint::Open(GoldenDir("mixtral"), {});
  const StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  const std::vector<float> all =
      Values(stored.tensors.at("model.layers.1.block_sparse_moe.experts.7.w3.weight"));
  std::vector<float> rows(3 * 96);
  checkpoint->ReadRows("model.layers.1.mlp.experts.7.up_proj.weight", 5, 3, rows);
  EXPECT_EQ(rows, std::vector<float>(all.begin() + 5 * 96, all.begin() + 8 * 96));
  std::vector<float> part(2);
  checkpoint->ReadRows("model.norm.weight", 94, 2, part);
  const std::vector<float> norm = Values(stored.tensors.at("model.norm.weight"));
  EXPECT_EQ(part, std::vector<float>(norm.end() - 2, norm.end()));
  checkpoint->ReadRows("model.norm.weight", 96, 0, {});
  EXPECT_TRUE(checkpoint->Has("model.layers.0.mlp.gate.weight"));
  EXPECT_FALSE(checkpoint->Has("model.layers.0.block_sparse_moe.gate.weight"));
  checkpoint->Forget("model.layers.1.mlp.experts.7.up_proj.weight");
  checkpoint->ReadRows("model.layers.1.mlp.experts.7.up_proj.weight", 5, 3, rows);
  EXPECT_EQ(rows[0], all[5 * 96]);
}

TEST_F(CheckpointTest, ReadingWhatWasNotCheckedEndsTheProcess) {
  const auto checkpoint = *Checkpoint::Open(GoldenDir("mixtral"), {});
  std::vector<float> one(1);
  EXPECT_DEATH(checkpoint->ReadRows("model.nothing", 0, 1, one), "check failed");
  EXPECT_DEATH(checkpoint->ReadRows("model.norm.weight", 96, 1, one), "check failed");
  EXPECT_DEATH(checkpoint->ReadRows("model.norm.weight", 0, 2, one), "check failed");
}

TEST_F(CheckpointTest, ReadsHalfAndFloatExactly) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
  RawTensor& norm = stored.tensors.at("model.norm.weight");
  norm.dtype = "F16";
  norm.data.assign(norm.data.size(), '\0');
  norm.data[0] = 0x01;  // the smallest subnormal
  norm.data[3] = 0x3c;  // 1
  RawTensor& input = stored.tensors.at("model.layers.0.input_layernorm.weight");
  std::vector<float> values(96, 0.1f);
  values[3] = -0x1.fffffep-100f;
  input = FloatTensor({96}, values);
  const auto checkpoint = Open(stored);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const std::vector<float> halves = ReadAll(**checkpoint, "model.norm.weight", 96, 1);
  EXPECT_EQ(halves[0], 0x1p-24f);
  EXPECT_EQ(halves[1], 1.0f);
  EXPECT_EQ(halves[2], 0.0f);
  EXPECT_EQ(ReadAll(**checkpoint, "model.layers.0.input_layernorm.weight", 96, 1), values);
}

TEST_F(CheckpointTest, DequantisesFp8BlocksIncludingPartialOnes) {
  const auto checkpoint = *Checkpoint::Open(GoldenDir("deepseek_v3_fp8"), {});
  const StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("deepseek_v3_fp8"));
  // [160, 224]: blocks of 128 + 32 rows and 128 + 96 columns.
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const RawTensor& weight = stored.tensors.at(name);
  const std::vector<float> scales = Values(stored.tensors.at(name + "_scale_inv"));
  const std::vector<float> read = ReadAll(*checkpoint, name, 160, 224);
  for (size_t r = 0; r < 160; ++r) {
    for (size_t c = 0; c < 224; ++c) {
      const uint8_t bits = static_cast<uint8_t>(weight.data[r * 224 + c]);
      const int exponent = (bits >> 3) & 15;
      float value = exponent == 0 ? std::ldexp(static_cast<float>(bits & 7), -9)
                                  : std::ldexp(static_cast<float>(8 + (bits & 7)), exponent - 10);
      if ((bits & 0x80) != 0) value = -value;
      const float wanted = kernels::ToFloat(kernels::ToBf16(value * scales[r / 128 * 2 + c / 128]));
      ASSERT_EQ(read[r * 224 + c], wanted) << r << ", " << c;
    }
  }
}

TEST_F(CheckpointTest, Fp8IsCloseToTheWeightsItWasMadeOf) {
  const auto fp8 = *Checkpoint::Open(GoldenDir("deepseek_v3_fp8"), {});
  const auto bf16 = *Checkpoint::Open(GoldenDir("deepseek_v3"), {});
  for (const TensorSpec& spec : TensorTable(fp8->config())) {
    const int64_t columns = spec.shape.size() == 2 ? spec.shape[1] : 1;
    const std::vector<float> a = ReadAll(*fp8, spec.name, spec.shape[0], columns);
    const std::vector<float> b = ReadAll(*bf16, spec.name, spec.shape[0], columns);
    float largest = 0;
    for (float value : b) largest = std::max(largest, std::abs(value));
    for (size_t i = 0; i < a.size(); ++i) {
      // Half a step of 3 mantissa bits, of a value or of the subnormal range of its block.
      ASSERT_NEAR(a[i], b[i], std::abs(b[i]) / 15 + largest / 448 / 100) << spec.name;
    }
  }
}

TEST_F(CheckpointTest, AcceptsBf16Scales) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("deepseek_v3_fp8"));
  for (auto& [name, tensor] : stored.tensors) {
    if (name.ends_with("_scale_inv")) {
      tensor = Bf16Tensor(tensor.shape, std::vector<float>(Values(tensor).size(), 0.25f));
    }
  }
  const auto checkpoint = Open(stored);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const uint8_t first = static_cast<uint8_t>(stored.tensors.at(name).data[0]);
  EXPECT_EQ(ReadAll(**checkpoint, name, 160, 224)[0], Float8ToFloat(first) * 0.25f);
}

TEST_F(CheckpointTest, FusedExpertsAreTheSameTensors) {
  for (const char* model :
       {"deepseek_v2_lite", "deepseek_v3", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe"}) {
    SCOPED_TRACE(model);
    StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir(model));
    const size_t before = stored.tensors.size();
    testing::FuseExperts(stored);
    ASSERT_LT(stored.tensors.size(), before / 2);
    const auto fused = Open(stored);
    ASSERT_TRUE(fused.ok()) << fused.status();
    const auto original = *Checkpoint::Open(GoldenDir(model), {});
    ExpectSameTensors(*original, **fused);
    EXPECT_EQ((*fused)->Fingerprint("bf16"), original->Fingerprint("bf16"));
    EXPECT_EQ((*fused)->weight_bytes(), original->weight_bytes());
  }
}

TEST_F(CheckpointTest, FusedFp8ExpertsHaveScalesPerElement) {
  // Intermediate 192: the rows of up begin inside the second block of a [384, 160] element.
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("deepseek_v3_fp8"));
  const int64_t experts = 16, intermediate = 192, hidden = 160;
  stored.config["moe_intermediate_size"] = intermediate;
  const auto ones = [](std::vector<int64_t> shape) {
    int64_t elements = 1;
    for (int64_t d : shape) elements *= d;
    return RawTensor{"F8_E4M3", std::move(shape), std::string(static_cast<size_t>(elements), 0x38)};
  };
  std::erase_if(stored.tensors,
                [](const auto& item) { return item.first.find("experts") != std::string::npos; });
  for (const std::string layer : {"model.layers.1.mlp.", "model.layers.2.mlp."}) {
    std::vector<float> gate_up_scales, down_scales;
    for (int64_t i = 0; i < experts * 3 * 2; ++i) gate_up_scales.push_back(static_cast<float>(i));
    for (int64_t i = 0; i < experts * 2 * 2; ++i) down_scales.push_back(static_cast<float>(-i));
    stored.tensors[layer + "experts.gate_up_proj"] = ones({experts, 2 * intermediate, hidden});
    stored.tensors[layer + "experts.gate_up_proj_scale_inv"] =
        FloatTensor({experts, 3, 2}, gate_up_scales);
    stored.tensors[layer + "experts.down_proj"] = ones({experts, hidden, intermediate});
    stored.tensors[layer + "experts.down_proj_scale_inv"] =
        FloatTensor({experts, 2, 2}, down_scales);
    for (const char* name : {"gate_proj", "up_proj"}) {
      stored.tensors[layer + "shared_experts." + name + ".weight"] = ones({intermediate, hidden});
      stored.tensors[layer + "shared_experts." + name + ".weight_scale_inv"] =
          FloatTensor({2, 2}, {1, 1, 1, 1});
    }
    stored.tensors[layer + "shared_experts.down_proj.weight"] = ones({hidden, intermediate});
    stored.tensors[layer + "shared_experts.down_proj.weight_scale_inv"] =
        FloatTensor({2, 2}, {1, 1, 1, 1});
  }
  const auto opened = Open(stored);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const std::string expert = "model.layers.2.mlp.experts.5.";
  const std::vector<float> gate = ReadAll(**opened, expert + "gate_proj.weight", 192, 160);
  const std::vector<float> up = ReadAll(**opened, expert + "up_proj.weight", 192, 160);
  const std::vector<float> down = ReadAll(**opened, expert + "down_proj.weight", 160, 192);
  const float first = 5 * 6;
  EXPECT_EQ(gate[0], first);
  EXPECT_EQ(gate[128], first + 1);        // second block of columns
  EXPECT_EQ(gate[128 * 160], first + 2);  // second block of rows
  EXPECT_EQ(up[0], first + 2);            // row 192 of the element
  EXPECT_EQ(up[63 * 160], first + 2);     // row 255
  EXPECT_EQ(up[64 * 160], first + 4);     // row 256
  EXPECT_EQ(up[191 * 160 + 159], first + 5);
  EXPECT_EQ(down[0], -20.0f);
  EXPECT_EQ(down[159 * 192 + 191], -23.0f);
}

TEST_F(CheckpointTest, ShardsAreTheSameCheckpoint) {
  const StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("deepseek_v3"));
  stored.WriteSharded(dir_.path(), 3);
  const auto sharded = Checkpoint::Open(dir_.path(), {});
  ASSERT_TRUE(sharded.ok()) << sharded.status();
  const auto original = *Checkpoint::Open(GoldenDir("deepseek_v3"), {});
  ExpectSameTensors(*original, **sharded);
  EXPECT_EQ((*sharded)->Fingerprint("bf16"), original->Fingerprint("bf16"));
}

TEST_F(CheckpointTest, SkipsMtpLayers) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("deepseek_v3"));
  testing::AddMtpLayer(stored);
  stored.WriteSharded(dir_.path(), 2);
  const auto checkpoint = Checkpoint::Open(dir_.path(), {.config = {.strict = true}});
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->config().num_mtp_layers, 1);
  EXPECT_EQ((*checkpoint)->config().num_layers, 3);
  EXPECT_FALSE((*checkpoint)->Has("model.layers.3.mlp.gate.weight"));
  const auto plain = *Checkpoint::Open(GoldenDir("deepseek_v3"), {});
  EXPECT_EQ((*checkpoint)->weight_bytes(), plain->weight_bytes());
  EXPECT_EQ((*checkpoint)->Fingerprint("f32"), plain->Fingerprint("f32"));
}

TEST_F(CheckpointTest, AnMtpLayerMayHaveBeenRemoved) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("deepseek_v3"));
  stored.config["num_nextn_predict_layers"] = 1;
  EXPECT_TRUE(Open(stored).ok());
}

TEST_F(CheckpointTest, RefusesLayersThatTheConfigDoesNotCount) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("deepseek_v3"));
  testing::AddMtpLayer(stored);
  stored.config["num_nextn_predict_layers"] = 0;
  ExpectInvalid(stored, "config.json says num_hidden_layers 3 and num_nextn_predict_layers 0");
  stored = StoredCheckpoint::Read(GoldenDir("deepseek_v3"));
  stored.config["num_hidden_layers"] = 2;
  ExpectInvalid(stored, "is unexpected: config.json says num_hidden_layers 2");
  stored.config["num_nextn_predict_layers"] = 1;
  ExpectInvalid(stored, "layer 2 is no multi-token-prediction layer");
}

TEST_F(CheckpointTest, IgnoresInertBuffersWithAWarning) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  stored.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = FloatTensor({1}, {1});
  stored.tensors["model.rotary_emb.inv_freq"] = FloatTensor({1}, {1});
  const auto checkpoint = Open(stored);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT((*checkpoint)->warnings(),
              ::testing::ElementsAre(HasSubstr("2 rotary_emb.inv_freq")));
}

TEST_F(CheckpointTest, IgnoresTensorsWithoutElements) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  stored.tensors["model.layers.0.mlp.shared_experts.down_proj.weight"] = FloatTensor({96, 0}, {});
  EXPECT_TRUE(Open(stored).ok());
}

TEST_F(CheckpointTest, TiedEmbeddings) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  stored.config["tie_word_embeddings"] = true;
  ExpectInvalid(stored, "tensor lm_head.weight differs from the embedding");
  stored.tensors["lm_head.weight"] = stored.tensors["model.embed_tokens.weight"];
  const auto with_copy = Open(stored);
  ASSERT_TRUE(with_copy.ok()) << with_copy.status();
  const std::string fingerprint = (*with_copy)->Fingerprint("bf16");
  stored.tensors.erase("lm_head.weight");
  const auto without = Open(stored);
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_FALSE((*without)->Has("lm_head.weight"));
  EXPECT_EQ((*without)->Fingerprint("bf16"), fingerprint);
  stored.config["tie_word_embeddings"] = false;
  ExpectInvalid(stored, "tensor lm_head.weight is missing (or tie_word_embeddings should be true)");
}

TEST_F(CheckpointTest, NamesMissingTensors) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("qwen3_moe"));
  stored.tensors.erase("model.layers.1.mlp.experts.3.up_proj.weight");
  ExpectInvalid(stored,
                "tensor model.layers.1.mlp.experts.3.up_proj.weight is missing; use config");
  stored.tensors.erase("model.layers.1.self_attn.k_norm.weight");
  ExpectInvalid(stored, "tensor model.layers.1.self_attn.k_norm.weight is missing, and 1 others");
  StoredCheckpoint bare = StoredCheckpoint::Read(GoldenDir("qwen3_moe"));
  testing::RawTensors renamed;
  for (const auto& [name, tensor] : bare.tensors) {
    renamed[name.starts_with("model.") ? name.substr(6) : name] = tensor;
  }
  bare.tensors = renamed;
  ExpectInvalid(bare, "names lack the prefix \"model.\"");
}

TEST_F(CheckpointTest, RefusesTensorsThatNothingReads) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("qwen3_moe"));
  stored.tensors["model.layers.0.self_attn.q_proj.bias"] =
      FloatTensor({128}, std::vector<float>(128));
  ExpectInvalid(stored,
                "tensor model.layers.0.self_attn.q_proj.bias is unexpected: a model of this "
                "config has no such tensor");
  stored = StoredCheckpoint::Read(GoldenDir("qwen3_moe"));
  stored.tensors["model.layers.0.mlp.gate.weight_scale_inv"] = FloatTensor({1, 1}, {1});
  ExpectInvalid(stored, "it scales a tensor that is not F8_E4M3");
}

TEST_F(CheckpointTest, RefusesWrongShapes) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  stored.config["vocab_size"] = 577;
  ExpectInvalid(stored,
                "tensor model.embed_tokens.weight is BF16 [576, 96], but config.json wants "
                "[577, 96]; config and weights are of different models or revisions");
  stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  stored.config["intermediate_size"] = 32;
  ExpectInvalid(stored, "is BF16 [64, 96], but config.json wants [32, 96]");
  stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  RawTensor& norm = stored.tensors.at("model.norm.weight");
  norm.shape = {96, 1};
  ExpectInvalid(stored, "tensor model.norm.weight is BF16 [96, 1], but config.json wants [96]");
  stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  testing::FuseExperts(stored);
  RawTensor& down = stored.tensors.at("model.layers.0.mlp.experts.down_proj");
  down.shape = {8, 64, 96};  // transposed, as other libraries store it
  ExpectInvalid(stored, "is BF16 [8, 64, 96], but config.json wants [8, 96, 64]");
  stored = StoredCheckpoint::Read(GoldenDir("mixtral"));
  stored.config["num_local_experts"] = 7;
  ExpectInvalid(stored, "[8, 96], but config.json wants [7, 96]");
}

TEST_F(CheckpointTest, RefusesWrongTypes) {
  for (const char* type : {"I16", "U16"}) {
    StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
    stored.tensors.at("model.norm.weight").dtype = type;
    ExpectInvalid(stored, std::string("tensor model.norm.weight is ") + type +
                              " [96], wanted BF16, F16, F32, or F8_E4M3");
  }
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
  RawTensor& norm = stored.tensors.at("model.norm.weight");
  norm = {"F8_E4M3", {96}, std::string(96, 0x38)};
  ExpectInvalid(stored, "tensor model.norm.weight is F8_E4M3 [96], wanted BF16");
}

TEST_F(CheckpointTest, RefusesFp8WithoutProperScales) {
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("deepseek_v3_fp8"));
  stored.tensors.erase(name + "_scale_inv");
  ExpectInvalid(stored, "tensor " + name + " is F8_E4M3 [160, 160], but its scales, tensor " +
                            name + "_scale_inv, are missing");
  stored = StoredCheckpoint::Read(GoldenDir("deepseek_v3_fp8"));
  stored.tensors[name + "_scale_inv"] = FloatTensor({1, 1}, {1});
  ExpectInvalid(stored, name + "_scale_inv is F32 [1, 1], wanted F32 or BF16 [2, 2]");
  stored.tensors[name + "_scale_inv"] = {"F8_E8M0", {2, 2}, std::string(4, 'x')};
  ExpectInvalid(stored, name + "_scale_inv is F8_E8M0 [2, 2], wanted F32 or BF16 [2, 2]");
  stored = StoredCheckpoint::Read(GoldenDir("deepseek_v3_fp8"));
  stored.config.erase("quantization_config");
  ExpectInvalid(stored, "but config.json has no quantization_config");
}

TEST_F(CheckpointTest, RefusesBothLayoutsAtOnce) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
  const StoredCheckpoint original = stored;
  testing::FuseExperts(stored);
  const std::string expert = "model.layers.0.mlp.experts.0.gate_proj.weight";
  stored.tensors[expert] = original.tensors.at(expert);
  ExpectInvalid(stored,
                "tensors " + expert + " and model.layers.0.mlp.experts.gate_up_proj both hold");
}

TEST_F(CheckpointTest, RecognisesForeignFormatsByTheirTensors) {
  struct Foreign {
    const char* suffix;
    const char* format;
  };
  for (const Foreign& foreign :
       {Foreign{".qweight", "GPTQ or AWQ"}, Foreign{"_blocks", "MXFP4"},
        Foreign{".weight_packed", "compressed-tensors"}, Foreign{".weight.absmax", "bitsandbytes"},
        Foreign{".lora_A.weight", "a LoRA adapter"}}) {
    StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
    stored.Rename("model.layers.0.self_attn.q_proj.weight",
                  std::string("model.layers.0.self_attn.q_proj") + foreign.suffix);
    ExpectRefused(stored, absl::StatusCode::kUnimplemented,
                  std::string("it looks like ") + foreign.format);
  }
}

// Bytes are changed where a decision hangs on them: in config.json, or in a shard's header.
TEST_F(CheckpointTest, RandomDamageIsAnErrorOrIsReadAsItStands) {
  const StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("deepseek_v3_fp8"));
  stored.Write(dir_.path());
  const std::string config = testing::ReadText(dir_.path() / "config.json");
  std::string weights = testing::ReadText(dir_.path() / "model.safetensors");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, weights.data(), sizeof(header_bytes));
  std::mt19937_64 random(7);  // a fixed seed: the same damage every time
  int refused = 0;
  constexpr int kRounds = 400;
  for (int round = 0; round < kRounds; ++round) {
    std::string damaged_config = config;
    const char byte = static_cast<char>(random() & 0xff);
    char* place = &damaged_config[random() % config.size()];
    const bool in_header = round % 2 == 0;
    if (in_header) place = &weights[random() % (8 + header_bytes)];
    const char before = std::exchange(*place, byte);
    testing::WriteText(dir_.path() / "config.json", damaged_config);
    if (in_header) testing::WriteText(dir_.path() / "model.safetensors", weights);
    const auto checkpoint = Checkpoint::Open(dir_.path(), {});
    if (checkpoint.ok()) {
      (*checkpoint)->Fingerprint("bf16");
    } else {
      ++refused;
      EXPECT_THAT(std::string(checkpoint.status().message()), HasSubstr(dir_.path().string()));
    }
    *place = before;
    if (in_header) testing::WriteText(dir_.path() / "model.safetensors", weights);
  }
  EXPECT_GT(refused, kRounds / 2);
}

TEST_F(CheckpointTest, RefusesTheWeightsOfAnotherFamily) {
  StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
  stored.config = StoredCheckpoint::Read(GoldenDir("mixtral")).config;
  ExpectInvalid(stored, "config and weights");
}

}  // namespace
}  // namespace conclave::weights
