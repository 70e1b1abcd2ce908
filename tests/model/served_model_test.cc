#include "shared/model/served_model.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave::model {
namespace {

using testing::HasSubstr;

CommonOptions Common(const std::string& golden) {
  CommonOptions common;
  common.model = std::string(CONCLAVE_SOURCE_DIR) + "/tests/golden/" + golden;
  return common;
}

TEST(OpenServedModelTest, KnowsTheModelByFingerprintNameAndShape) {
  CommonOptions common = Common("deepseek_v3");
  const absl::StatusOr<ServedModel> model = OpenServedModel(common);
  ASSERT_TRUE(model.ok()) << model.status();
  const weights::ModelConfig& config = model->checkpoint->config();
  EXPECT_EQ(model->numerics, kernels::NumericsClass::kBf16);
  EXPECT_EQ(model->identity.numerics_class, "bf16");
  EXPECT_EQ(model->identity.fingerprint, model->checkpoint->Fingerprint("bf16"));
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

TEST(ChooseCpuLevelTest, TakesTheBestOrANamedOne) {
  EXPECT_EQ(*ChooseCpuLevel("engine.cpu_level", "auto"), kernels::BestCpuLevel());
  EXPECT_EQ(*ChooseCpuLevel("engine.cpu_level", "reference"), kernels::CpuLevel::kReference);
  const absl::Status unknown = ChooseCpuLevel("expert.cpu_level", "sse9").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("expert.cpu_level is \"sse9\""));
  for (const char* name : {"avx512", "avx512_vnni", "avx512_bf16"}) {
    const auto level = ChooseCpuLevel("engine.cpu_level", name);
    EXPECT_EQ(level.ok(), kernels::CpuSupports(*kernels::ParseCpuLevel(name))) << name;
    if (!level.ok()) {
      EXPECT_THAT(std::string(level.status().message()), HasSubstr("use auto"));
    }
  }
}

}  // namespace
}  // namespace conclave::model
