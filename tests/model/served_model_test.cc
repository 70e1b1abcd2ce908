#include "shared/model/served_model.h"

#include <filesystem>
#include <fstream>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shared/weights/packed_layout.h"
#include "shared/weights/packed_writer.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/int4_checkpoint.h"

namespace conclave::model {
namespace {

using ::testing::HasSubstr;

CommonOptions Common(const std::string& golden) {
  CommonOptions common;
  common.model = std::string(CONCLAVE_SOURCE_DIR) + "/tests/golden/" + golden;
  return common;
}

TEST(OpenServedModelTest, KnowsTheModelByFingerprintNameAndShape) {
  CommonOptions common = Common("deepseek_v3");
  const absl::StatusOr<ServedModel> model = OpenServedModel(common);
  ASSERT_TRUE(model.ok()) << model.status();
  const weights::ModelConfig& config = model->stored->config();
  EXPECT_EQ(model->formats.numerics, kernels::NumericsClass::kBf16);
  EXPECT_EQ(model->identity.numerics_class, "bf16");
  EXPECT_EQ(model->identity.fingerprint, model->stored->Fingerprint("bf16"));
  EXPECT_EQ(model->identity.served_name, "deepseek_v3");
  EXPECT_EQ(model->identity.num_layers, config.num_layers);
  EXPECT_EQ(model->identity.num_experts, config.moe.num_experts);
  EXPECT_GT(model->identity.expert_bytes, 0);
  for (const int32_t layer : model->identity.moe_layers) EXPECT_TRUE(config.IsMoe(layer));
  EXPECT_FALSE(model->identity.moe_layers.empty());

  common.served_name = "tiny";
  common.numerics = "f32";
  const absl::StatusOr<ServedModel> other = OpenServedModel(common);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(other->identity.served_name, "tiny");
  EXPECT_NE(other->identity.fingerprint, model->identity.fingerprint);
}

TEST(OpenServedModelTest, NamesWhatIsWrong) {
  CommonOptions none;
  EXPECT_THAT(std::string(OpenServedModel(none).status().message()), HasSubstr("--model"));
  CommonOptions unknown = Common("deepseek_v3");
  unknown.numerics = "fp4";
  EXPECT_THAT(std::string(OpenServedModel(unknown).status().message()), HasSubstr("\"fp4\""));
  EXPECT_FALSE(OpenServedModel(Common("no_such_model")).ok());
}

// A packed file with a label and one tensor; its model is that of tests/golden/mixtral.
std::string PackedWithLabel(const conclave::testing::TempDir& dir, const std::string& label) {
  const std::filesystem::path golden = Common("mixtral").model;
  std::ifstream file(golden / "config.json");
  const std::string config{std::istreambuf_iterator<char>(file), {}};
  weights::PackedLayout layout(std::string(64, 'a'), label);
  layout.AddText("config.json", config);
  weights::PackedEntry vector;
  vector.name = "v";
  vector.order = weights::PackedEntry::Order::kVector;
  vector.type = 1;
  vector.rows = vector.columns = 1;
  vector.bytes = 4;
  layout.AddEntry(vector);
  const std::filesystem::path path = dir.path() / "some model.v1.conclave";
  auto writer = weights::PackedWriter::Create(path, std::move(layout).Finish(), {config}, true);
  EXPECT_TRUE(writer.ok() && (*writer)->Commit().ok());
  return path.string();
}

TEST(OpenServedModelTest, APackedFileDecidesItsFormats) {
  const conclave::testing::TempDir dir;
  CommonOptions common;
  common.model = PackedWithLabel(dir, "int8+int4:32");
  const auto model = OpenServedModel(common);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->identity.numerics_class, "int8+int4:32");
  EXPECT_EQ(model->identity.fingerprint, std::string(64, 'a'));
  EXPECT_EQ(model->identity.served_name, "some model.v1");
  EXPECT_EQ(model->formats.experts.group, 32);
  common.numerics = "int8";
  const absl::Status other = OpenServedModel(common).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(other.message()), HasSubstr("is packed as int8+int4:32; leave numerics "
                                                      "at auto, which takes a packed file as it"));
  common.model = PackedWithLabel(dir, "int8");
  EXPECT_TRUE(OpenServedModel(common).ok());
}

TEST(OpenServedModelTest, UnknownFormatsOfAPackedFileAreRefused) {
  const conclave::testing::TempDir dir;
  CommonOptions common;
  for (const char* label : {"fp6", "int8:64", "int8+int8"}) {
    common.model = PackedWithLabel(dir, label);
    const absl::Status status = OpenServedModel(common).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << label;
    EXPECT_THAT(std::string(status.message()), HasSubstr(label));
  }
}

// Before any process starts, not while an engine loads.
TEST(OpenServedModelTest, ClassesThatAnInt4CheckpointDoesNotHaveAreRefused) {
  const conclave::testing::TempDir dir;
  auto stored = conclave::testing::StoredCheckpoint::Read(conclave::testing::GoldenDir("olmoe"));
  conclave::testing::StoreAsInt4(stored, {.group = 128});
  stored.Write(dir.path());
  CommonOptions common;
  common.model = dir.path().string();
  for (const auto& [numerics, label] : {std::pair<const char*, const char*>{"auto", "int4:128"},
                                        {"f32", "f32"},
                                        {"bf16", "bf16"},
                                        {"int4", "int4:128"}}) {
    common.numerics = numerics;
    const auto model = OpenServedModel(common);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ(model->formats.Label(), label);
  }
  common.numerics = "int8";
  const absl::Status status = OpenServedModel(common).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("is stored as int4:128, wanted int8:64"));
}

TEST(ChooseCpuLevelTest, TakesTheBestOrANamedOne) {
  EXPECT_EQ(*ChooseCpuLevel("engine.cpu_level", "auto"), kernels::BestCpuLevel());
  EXPECT_EQ(*ChooseCpuLevel("engine.cpu_level", "reference"), kernels::CpuLevel::kReference);
  const absl::Status unknown = ChooseCpuLevel("expert.cpu_level", "sse9").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("expert.cpu_level is \"sse9\""));
  for (const char* name : {"avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16"}) {
    const auto level = ChooseCpuLevel("engine.cpu_level", name);
    EXPECT_EQ(level.ok(), kernels::CpuSupports(*kernels::ParseCpuLevel(name))) << name;
    if (!level.ok()) {
      EXPECT_THAT(std::string(level.status().message()), HasSubstr("use auto"));
    }
  }
}

}  // namespace
}  // namespace conclave::model
