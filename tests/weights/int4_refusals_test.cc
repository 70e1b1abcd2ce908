// Checkpoints of int4 weights that are damaged, or of a kind that is not served: each is refused
// with one error that says what was found, what was wanted and what to do.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <utility>

#include "shared/weights/checkpoint.h"
#include "shared/weights/engine_weights.h"
#include "shared/weights/model_config.h"
#include "shared/weights/stored_formats.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/int4_checkpoint.h"

namespace conclave::weights {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using testing::GoldenDir;
using ::testing::HasSubstr;
using testing::Int4Layout;
using testing::Int4Options;
using testing::RawTensor;
using testing::StoredCheckpoint;
using testing::TempDir;

const char kBase[] = "model.layers.0.self_attn.q_proj";

class Int4RefusalsTest : public ::testing::Test {
 protected:
  static StoredCheckpoint Stored(const Int4Options& options) {
    StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
    testing::StoreAsInt4(stored, options);
    return stored;
  }

  absl::Status Open(const StoredCheckpoint& stored) {
    stored.Write(dir_.path());
    return Checkpoint::Open(dir_.path(), {}).status();
  }

  // Of a checkpoint that can be opened: what loading it says, as integers and as floats.
  absl::Status Load(const StoredCheckpoint& stored) {
    stored.Write(dir_.path());
    const auto checkpoint = Checkpoint::Open(dir_.path(), {});
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    if (!checkpoint.ok()) return absl::OkStatus();
    const auto as = [&](std::optional<kernels::NumericsClass> numerics) {
      return LoadEngineWeights(**checkpoint, FormatsOf(**checkpoint, numerics), nullptr).status();
    };
    const absl::Status status = as(std::nullopt);
    EXPECT_EQ(as(kernels::NumericsClass::kF32), status);
    return status;
  }

  void ExpectSays(const absl::Status& status, std::vector<std::string> parts,
                  absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    EXPECT_EQ(status.code(), code) << status;
    for (const std::string& part : parts) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(part));
    }
    EXPECT_THAT(std::string(status.message()), HasSubstr(dir_.path().string()));
  }

  TempDir dir_;
};

void SetWord(RawTensor& tensor, size_t index, uint32_t word) {
  std::memcpy(tensor.data.data() + 4 * index, &word, sizeof(word));
}

TEST_F(Int4RefusalsTest, PartsThatAreMissing) {
  for (const Int4Layout layout : testing::kInt4Layouts) {
    const StoredCheckpoint whole = Stored({.layout = layout});
    for (const auto& [name, tensor] : whole.tensors) {
      if (!name.starts_with(kBase) || name.ends_with(".g_idx")) continue;
      StoredCheckpoint stored = whole;
      stored.tensors.erase(name);
      const bool integers = name.ends_with(".qweight") || name.ends_with("_packed");
      ExpectSays(Open(stored),
                 {integers ? std::string(kBase) + ".weight is missing, and so is " + name
                           : "tensor " + name + " is missing, which"});
    }
  }
}

TEST_F(Int4RefusalsTest, PartsOfAnotherShapeOrType) {
  for (const Int4Layout layout : testing::kInt4Layouts) {
    const StoredCheckpoint whole = Stored({.layout = layout});
    for (const auto& [name, tensor] : whole.tensors) {
      if (!name.starts_with(kBase)) continue;
      StoredCheckpoint stored = whole;
      RawTensor& changed = stored.tensors.at(name);
      changed.shape[0] += 1;
      changed.data += changed.data.substr(0, changed.data.size() / tensor.shape[0]);
      ExpectSays(Open(stored), {"tensor " + name + " is ", ", wanted ", "one revision"});
      changed = tensor;
      changed.dtype = changed.dtype == "I64" ? "F64" : changed.dtype == "I32" ? "F32" : "I16";
      ExpectSays(Open(stored), {"tensor " + name + " is " + changed.dtype, ", wanted "});
    }
  }
}

TEST_F(Int4RefusalsTest, ScalesOfFullPrecision) {
  StoredCheckpoint stored = Stored({});
  RawTensor& scales = stored.tensors.at(std::string(kBase) + ".scales");
  scales.dtype = "F32";
  scales.data += scales.data;
  ExpectSays(Open(stored), {"q_proj.scales is F32 [3, 96], wanted F16 or BF16 [3, 96]"});
}

TEST_F(Int4RefusalsTest, InputsThatAreNotInTheirOrder) {
  StoredCheckpoint stored = Stored({});
  RawTensor order = stored.tensors.at(std::string(kBase) + ".g_idx");
  SetWord(order, 40, 2);
  stored.tensors.at(std::string(kBase) + ".g_idx") = order;
  ExpectSays(Load(stored),
             {"q_proj.g_idx is I32 [96] and says that input 40 is of group 2, wanted 1", "desc_act",
              "docs/models.md"},
             absl::StatusCode::kUnimplemented);
  stored.tensors.erase(std::string(kBase) + ".g_idx");  // then they are
  EXPECT_TRUE(Load(stored).ok());

  stored = Stored({.layout = Int4Layout::kCompressedTensors});
  stored.tensors[std::string(kBase) + ".weight_g_idx"] = order;
  ExpectSays(Load(stored), {"q_proj.weight_g_idx", "says that input 40"},
             absl::StatusCode::kUnimplemented);
}

TEST_F(Int4RefusalsTest, ZeroPointsThatAreNotClear) {
  StoredCheckpoint stored = Stored({});
  SetWord(stored.tensors.at(std::string(kBase) + ".qzeros"), 13, 0x666f6666);
  ExpectSays(Load(stored), {"q_proj.qzeros is I32 [3, 12] and has 15 in row 12, group 1",
                            "programs do not agree on", "gptq_v2"});
  stored = Stored({.layout = Int4Layout::kGptqV2});
  SetWord(stored.tensors.at(std::string(kBase) + ".qzeros"), 13, 0x666f6666);
  EXPECT_TRUE(Load(stored).ok());
}

TEST_F(Int4RefusalsTest, ZeroPointsOfAMatrixWithoutThem) {
  StoredCheckpoint stored = Stored({.zeros = false});
  SetWord(stored.tensors.at(std::string(kBase) + ".qzeros"), 0, 0x77777757);
  ExpectSays(Load(stored),
             {"has the zero point 6 in row 1, group 0, but \"sym\" is true in config.json, or "
              "missing"});
  stored.config["quantization_config"].erase("sym");
  ExpectSays(Load(stored), {"has the zero point 6 in row 1, group 0, but \"sym\" is true"});
}

TEST_F(Int4RefusalsTest, ScalesThatAreNoNumbers) {
  StoredCheckpoint stored = Stored({});
  RawTensor& scales = stored.tensors.at(std::string(kBase) + ".scales");
  const size_t at = 2 * (2 * 96 + 5);
  scales.data[at + 1] = 0x7c;
  scales.data[at] = 0;
  ExpectSays(Load(stored), {"model.safetensors: tensor model.layers.0.self_attn.q_proj.scales is ",
                            "has the scale inf in row 5, group 2, wanted one that is finite"});
  scales.data[at] = static_cast<char>(0xff);
  scales.data[at + 1] = 0x7b;  // 65504, the largest
  EXPECT_TRUE(Load(stored).ok());
}

// A finite one, of which a multiple is not: no float or square of it could be had.
TEST_F(Int4RefusalsTest, ScalesOfWeightsThatOverflow) {
  StoredCheckpoint stored = Stored({.layout = Int4Layout::kCompressedTensors, .half = false});
  RawTensor& scales = stored.tensors.at(std::string(kBase) + ".weight_scale");
  const size_t at = 2 * (64 * 3 + 1);  // of a row that is sampled
  const auto set = [&](uint16_t bits) { std::memcpy(scales.data.data() + at, &bits, 2); };
  set(0xfd89);
  ExpectSays(Load(stored), {"q_proj.weight_scale is BF16 [96, 3] and has the scale -2.2",
                            "e+37 in row 64, group 1, wanted one that is finite, and 15 times"});
  set(0xfd88);
  EXPECT_TRUE(Load(stored).ok());
}

TEST_F(Int4RefusalsTest, AShapeThatIsAnotherOnes) {
  StoredCheckpoint stored = Stored({.layout = Int4Layout::kCompressedTensors});
  stored.tensors.at(std::string(kBase) + ".weight_shape").data[0] = 95;
  ExpectSays(Load(stored), {"q_proj.weight_shape", "says [95, 96], wanted [96, 96]"});
}

TEST_F(Int4RefusalsTest, BothLayoutsAtOnce) {
  StoredCheckpoint stored = Stored({});
  const std::string weight = std::string(kBase) + ".weight";
  stored.tensors[weight] = StoredCheckpoint::Read(GoldenDir("olmoe")).tensors.at(weight);
  ExpectSays(Open(stored), {"both hold " + weight});
}

TEST_F(Int4RefusalsTest, AConfigThatDoesNotSayHow) {
  StoredCheckpoint stored = Stored({});
  stored.config.erase("quantization_config");
  ExpectSays(Open(stored), {"it looks like GPTQ", "config.json does not say so"},
             absl::StatusCode::kUnimplemented);
}

// Bytes are changed where a decision hangs on them: in config.json, in the header, and in what says
// how numbers are to be read.
TEST_F(Int4RefusalsTest, RandomDamageIsAnErrorOrIsReadAsItStands) {
  std::mt19937_64 random(11);  // a fixed seed: the same damage every time
  int refused = 0;
  constexpr int kRounds = 120;
  for (int round = 0; round < kRounds; ++round) {
    const Int4Layout layout = testing::kInt4Layouts[round % 4];
    StoredCheckpoint stored = StoredCheckpoint::Read(GoldenDir("olmoe"));
    testing::StoreAsInt4(stored, {.layout = layout, .zeros = round % 8 < 4},
                         [](const std::string& name) { return name.starts_with(kBase); });
    stored.Write(dir_.path());
    const auto damage = [&](const char* file, uint64_t first, uint64_t size) {
      std::string text = testing::ReadText(dir_.path() / file);
      text[first + random() % size] = static_cast<char>(random() & 0xff);
      testing::WriteText(dir_.path() / file, text);
    };
    const std::string weights = testing::ReadText(dir_.path() / "model.safetensors");
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, weights.data(), sizeof(header_bytes));
    if (round % 3 == 0) {
      const std::string config = testing::ReadText(dir_.path() / "config.json");
      damage("config.json", config.find("quantization_config"), 300);
    } else {
      const size_t entry = weights.find(kBase);  // its parts lie together in the header
      damage("model.safetensors", round % 3 == 1 ? entry : 0, round % 3 == 1 ? 500 : header_bytes);
    }
    const auto checkpoint = Checkpoint::Open(dir_.path(), {});
    if (!checkpoint.ok()) {
      ++refused;
      EXPECT_THAT(std::string(checkpoint.status().message()), HasSubstr(dir_.path().string()));
      continue;
    }
    (*checkpoint)->Fingerprint("bf16");
    const auto formats = FormatsOf(**checkpoint, kernels::NumericsClass::kF32);
    LoadEngineWeights(**checkpoint, formats, nullptr).status().IgnoreError();
  }
  EXPECT_GT(refused, kRounds / 3);
}

// Config alone.
class Int4ConfigTest : public Int4RefusalsTest {
 protected:
  absl::StatusOr<ModelConfig> Parse(const json& quantization) {
    json config = StoredCheckpoint::Read(GoldenDir("olmoe")).config;
    config["quantization_config"] = quantization;
    return ParseModelConfig((dir_.path() / "config.json").string(), config.dump(), {.strict = true},
                            nullptr);
  }
  void ExpectUnsupported(json quantization, const char* field, const json& value,
                         const std::string& says) {
    if (value.is_discarded()) {
      quantization.erase(field);
    } else {
      quantization[field] = value;
    }
    ExpectSays(Parse(quantization).status(), {"quantization_config", field, says},
               absl::StatusCode::kUnimplemented);
  }
};

TEST_F(Int4ConfigTest, EveryWriterIsUnderstood) {
  for (const Int4Layout layout : testing::kInt4Layouts) {
    for (const int64_t group : {32, 64, 128, 512, -1}) {
      const auto config = Parse(testing::Int4Config({.layout = layout, .group = group}));
      ASSERT_TRUE(config.ok()) << config.status();
      EXPECT_EQ(config->integers.group, group == -1 ? 0 : group);
      EXPECT_TRUE(config->integers.zeros);
      EXPECT_EQ(static_cast<int>(config->integers.layout), static_cast<int>(layout) + 1);
      EXPECT_THAT(config->stored_dtype, HasSubstr("int4 ("));
    }
  }
}

TEST_F(Int4ConfigTest, OtherSettingsAreRefusedNamingThem) {
  const json gptq = testing::Int4Config({});
  ExpectUnsupported(gptq, "bits", 8, "is 8, which changes the computation");
  ExpectUnsupported(gptq, "bits", json(json::value_t::discarded), "is missing");
  ExpectUnsupported(gptq, "group_size", 16, "supported: 32, 64, 128");
  ExpectUnsupported(gptq, "group_size", 0, "supported: 32, 64, 128");
  ExpectUnsupported(gptq, "desc_act", true, "supported: false, or group_size -1");
  ExpectUnsupported(gptq, "checkpoint_format", "marlin", "supported: \"gptq\", \"gptq_v2\"");
  ExpectUnsupported(gptq, "dynamic", {{"+:.*", {{"bits", 8}}}}, "null or nothing");
  const json awq = testing::Int4Config({.layout = Int4Layout::kAwq});
  ExpectUnsupported(awq, "bits", 3, "supported: 4");
  ExpectUnsupported(awq, "version", "gemv", "supported: \"gemm\"");
  ExpectUnsupported(awq, "zero_point", false, "supported: true");
  const json compressed = testing::Int4Config({.layout = Int4Layout::kCompressedTensors});
  ExpectUnsupported(compressed, "format", "naive-quantized", "supported: \"pack-quantized\"");
  ExpectUnsupported(compressed, "transform_config", {{"R1", 1}}, "null or nothing");
  ExpectUnsupported(compressed, "kv_cache_scheme", {{"num_bits", 8}}, "null or nothing");
  ExpectUnsupported(compressed, "quantization_status", "initialized", "\"compressed\"");
  for (const json& sparsity : std::vector<json>{{{"format", nullptr}},
                                                {{"format", 7}},
                                                {{"format", {{"name", "dense"}}}},
                                                {{"format", "sparse-24-bitmask"}},
                                                {{"targets", {"Linear"}}},
                                                "dense",
                                                json::array({"dense"})}) {
    ExpectUnsupported(compressed, "sparsity_config", sparsity, "format \"dense\"");
  }
  const auto weights = [&](const char* field, const json& value) {
    json changed = compressed;
    changed["config_groups"]["group_0"]["weights"][field] = value;
    return Parse(changed).status();
  };
  for (const auto& [field, value] : std::vector<std::pair<const char*, json>>{{"num_bits", 8},
                                                                              {"type", "float"},
                                                                              {"strategy", "block"},
                                                                              {"actorder", "group"},
                                                                              {"dynamic", true},
                                                                              {"group_size", 48}}) {
    ExpectSays(weights(field, value), {"group_0: weights", field},
               absl::StatusCode::kUnimplemented);
  }
  EXPECT_TRUE(weights("actorder", "static").ok());
  json two = compressed;
  two["config_groups"]["group_1"] = two["config_groups"]["group_0"];
  EXPECT_TRUE(Parse(two).ok());
  two["config_groups"]["group_1"]["weights"]["group_size"] = 128;
  ExpectSays(Parse(two).status(), {"config_groups", "all quantised alike"},
             absl::StatusCode::kUnimplemented);
  two["config_groups"]["group_1"]["input_activations"] = {{"num_bits", 8}};
  ExpectSays(Parse(two).status(), {"input_activations"}, absl::StatusCode::kUnimplemented);
  json none = compressed;
  none["config_groups"] = json::object();
  ExpectSays(Parse(none).status(), {"config_groups", "one group at least"});
}

TEST_F(Int4ConfigTest, WhatSomeWritersSayOfCompressedTensors) {
  json compressed = testing::Int4Config({.layout = Int4Layout::kCompressedTensors});
  for (const json& sparsity :
       std::vector<json>{nullptr, json::object(), {{"format", "dense"}, {"ignore", {"x"}}}}) {
    compressed["sparsity_config"] = sparsity;
    EXPECT_TRUE(Parse(compressed).ok()) << sparsity;
  }
  compressed["quantization_status"] = "frozen";
  EXPECT_TRUE(Parse(compressed).ok());
}

// As compressed-tensors itself infers it.
TEST_F(Int4ConfigTest, AStrategyThatIsMissingFollowsFromTheGroup) {
  json compressed = testing::Int4Config({.layout = Int4Layout::kCompressedTensors});
  json& weights = compressed["config_groups"]["group_0"]["weights"];
  for (const json& strategy : std::vector<json>{json(json::value_t::discarded), nullptr}) {
    weights.erase("strategy");
    if (!strategy.is_discarded()) weights["strategy"] = strategy;
    for (const auto& [group, wanted] :
         {std::pair<json, int64_t>{128, 128}, {32, 32}, {-1, 0}, {nullptr, 0}}) {
      weights["group_size"] = group;
      const auto config = Parse(compressed);
      ASSERT_TRUE(config.ok()) << config.status();
      EXPECT_EQ(config->integers.group, wanted) << group;
    }
    weights["group_size"] = 48;
    ExpectSays(Parse(compressed).status(), {"group_0: weights", "group_size"},
               absl::StatusCode::kUnimplemented);
  }
}

TEST_F(Int4ConfigTest, AwqOfAnotherWriterIsRefused) {
  json awq = testing::Int4Config({.layout = Int4Layout::kAwq});
  ExpectUnsupported(awq, "backend", "llm-awq", "supported: \"autoawq\"");
  ExpectUnsupported(awq, "backend", "qllm", "supported: \"autoawq\"");
  awq["backend"] = "autoawq";
  EXPECT_TRUE(Parse(awq).ok());
}

TEST_F(Int4ConfigTest, ReorderedInputsOfOneGroupARowAreNone) {
  json gptq = testing::Int4Config({.group = -1});
  gptq["desc_act"] = true;
  EXPECT_TRUE(Parse(gptq).ok());
}

}  // namespace
}  // namespace conclave::weights
