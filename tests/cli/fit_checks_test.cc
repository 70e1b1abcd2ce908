#include "services/cli/fit_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "shared/model/served_model.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/stored_model.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/int4_checkpoint.h"

namespace conclave::cli {
namespace {

using kernels::NumericsClass;
using ::testing::HasSubstr;

constexpr int64_t kGiB = int64_t{1} << 30;

MemoryDemand TwoGiB() {
  return {.formats = NumericsClass::kBf16,
          .classes = {{NumericsClass::kF32, 4 * kGiB, 4 * kGiB},
                      {NumericsClass::kBf16, 2 * kGiB, 2 * kGiB},
                      {NumericsClass::kInt8, kGiB, kGiB}},
          .weight_bytes = 2 * kGiB,
          .expert_bytes = kGiB,
          .kv_block_bytes = kernels::kBlockTokens << 21,
          .context_tokens = 128};
}

TEST(CheckFitsTest, WarnsWhenOnlyAShorterContextFits) {
  EXPECT_EQ(CheckFits(TwoGiB(), 4 * kGiB, 8 * kGiB).verdict, Verdict::kOk);
  MemoryDemand demand = TwoGiB();
  demand.context_tokens = 8192;
  const Check shorter = CheckFits(demand, 4 * kGiB, 8 * kGiB);
  EXPECT_EQ(shorter.verdict, Verdict::kWarn);
  EXPECT_THAT(shorter.remedy, HasSubstr("--engine-context 768"));
}

TEST(CheckFitsTest, FailsWithARemedyWhenTheWeightsDoNotFit) {
  MemoryDemand demand = TwoGiB();
  demand.context_tokens = 1;
  const Check more = CheckFits(demand, kGiB, 8 * kGiB);
  EXPECT_EQ(more.verdict, Verdict::kFail);
  EXPECT_THAT(more.remedy, HasSubstr("docs/two-machines.md"));
  EXPECT_THAT(more.found, HasSubstr("f32 4.0 GiB, bf16 2.0 GiB, int8 1.0 GiB"));
  const Check smaller = CheckFits(demand, 3 * kGiB / 2, 8 * kGiB);
  EXPECT_EQ(smaller.verdict, Verdict::kFail);
  EXPECT_THAT(smaller.remedy, HasSubstr("another --numerics fits: int8 1.0 GiB"));
  demand.classes.back().numerics = "auto";
  EXPECT_THAT(CheckFits(demand, 3 * kGiB / 2, 8 * kGiB).remedy,
              HasSubstr("--numerics auto fits: int8 1.0 GiB"));
  demand.classes.back().in_all = 3 * kGiB;  // several copies
  EXPECT_THAT(CheckFits(demand, 3 * kGiB / 2, 8 * kGiB).remedy, HasSubstr("docs/two-machines.md"));
  demand.weight_bytes = 4 * kGiB;
  demand.formats = NumericsClass::kF32;
  const Check half = CheckFits(demand, 3 * kGiB, 8 * kGiB);
  EXPECT_EQ(half.verdict, Verdict::kFail);
  EXPECT_THAT(half.remedy, HasSubstr("another --numerics fits: bf16 2.0 GiB"));
}

// A small reference checkpoint and the settings' defaults.
class FitTest : public ::testing::Test {
 protected:
  FitTest() {
    auto checkpoint =
        weights::Checkpoint::Open(CONCLAVE_SOURCE_DIR "/tests/golden/deepseek_v3", {});
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    config_ = (*checkpoint)->config();
  }

  weights::ModelConfig config_;
  AllOptions options_;
};

TEST_F(FitTest, WorkersWithoutRoomAreToldWhatIsEnough) {
  EXPECT_EQ(CheckExpertsFit(config_, options_), absl::OkStatus()) << "no limit";
  options_.expert.memory.bytes = 1;
  const absl::Status none = CheckExpertsFit(config_, options_);
  EXPECT_EQ(none.code(), absl::StatusCode::kResourceExhausted);
  const std::string message(none.message());
  EXPECT_THAT(message, HasSubstr("expert.memory is 1 B"));
  EXPECT_THAT(message, HasSubstr("fit on none of 2 workers"));
  // What it says to be enough is, and a byte less is not.
  const std::string flag = "--expert-memory ";
  const int64_t enough = std::stoll(message.substr(message.find(flag) + flag.size()));
  options_.expert.memory.bytes = enough;
  EXPECT_EQ(CheckExpertsFit(config_, options_), absl::OkStatus());
  options_.expert.memory.bytes = enough - 1;
  EXPECT_FALSE(CheckExpertsFit(config_, options_).ok());
}

TEST_F(FitTest, WorkersOfOtherMachinesMayBringMore) {
  options_.expert.memory.bytes = 1;
  options_.controller.listen = "10.0.0.1:8010";
  EXPECT_EQ(CheckExpertsFit(config_, options_), absl::OkStatus());
  options_.controller.listen = "127.0.0.1:8010";
  options_.up.workers = 0;
  EXPECT_EQ(CheckExpertsFit(config_, options_), absl::OkStatus()) << "experts in the engine";
}

TEST_F(FitTest, KvMemoryIsRefusedAsTheEngineRefusesIt) {
  EXPECT_EQ(CheckKvFits(config_, options_, kGiB), absl::OkStatus());
  options_.engine.kv_memory.bytes = 2 * kGiB;
  EXPECT_THAT(std::string(CheckKvFits(config_, options_, kGiB).message()),
              HasSubstr("engine.kv_memory is 2.0 GiB"));
  options_.engine.kv_memory.bytes = 600 << 20;
  EXPECT_EQ(CheckKvFits(config_, options_, kGiB), absl::OkStatus());
  options_.up.engines = 2;
  EXPECT_FALSE(CheckKvFits(config_, options_, kGiB).ok()) << "each engine takes it";
}

TEST_F(FitTest, APackedFileIsInMemoryOnce) {
  const OwnFormats mixed{*weights::ParseWeightFormats("int8+int4")};
  const int64_t once = DemandOf(config_, options_, mixed).weight_bytes;
  options_.up.engines = 3;
  options_.up.workers = 0;
  const MemoryDemand demand = DemandOf(config_, options_, mixed);
  EXPECT_EQ(demand.weight_bytes, once);
  ASSERT_EQ(demand.classes.size(), 1u);
  EXPECT_EQ(demand.classes[0].formats.Label(), "int8+int4");
  EXPECT_LT(
      once,
      DemandOf(config_, options_, OwnFormats{*weights::ParseWeightFormats("int8")}).weight_bytes);
}

// What it stores as int4 stays so, and each process makes its own.
TEST_F(FitTest, ACheckpointOfInt4HasItsOwnFormats) {
  const OwnFormats own{*weights::ParseWeightFormats("bf16+int4:128"), /*mapped=*/false};
  options_.up.workers = 0;
  const int64_t once = DemandOf(config_, options_, own).weight_bytes;
  options_.up.engines = 3;
  const MemoryDemand demand = DemandOf(config_, options_, own);
  EXPECT_EQ(demand.weight_bytes, 3 * once);
  ASSERT_EQ(demand.classes.size(), 1u);
  EXPECT_EQ(demand.classes[0].formats.Label(), "bf16+int4:128");
}

TEST_F(FitTest, OfACheckpointOfInt4WhatCanBeMadeIsProposed) {
  const auto classes_of = [&](const std::function<bool(const std::string&)>& which,
                              const std::string& numerics) {
    const conclave::testing::TempDir dir;
    auto stored = conclave::testing::StoredCheckpoint::Read(conclave::testing::GoldenDir("olmoe"));
    conclave::testing::StoreAsInt4(stored, {.group = 128}, which);
    stored.Write(dir.path());
    const auto checkpoint = weights::OpenModel(dir.path(), {});
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto formats = model::ChooseFormats(**checkpoint, numerics);
    EXPECT_TRUE(formats.ok()) << formats.status();
    const auto own = OwnFormats::Of(**checkpoint, *formats);
    const MemoryDemand demand = DemandOf((*checkpoint)->config(), options_, own);
    EXPECT_EQ(demand.formats, *formats);
    EXPECT_GT(demand.weight_bytes, 0);
    std::vector<std::string> labels;
    int64_t before = std::numeric_limits<int64_t>::max();
    for (const ClassBytes& each : demand.classes) {
      EXPECT_LT(each.in_all, before);
      before = each.in_all;
      labels.push_back(each.formats.Label() + (each.numerics.empty() ? "" : " by ") +
                       each.numerics);
    }
    return labels;
  };
  using Labels = std::vector<std::string>;
  const auto experts = [](const std::string& name) {
    return name.find(".experts.") != std::string::npos;
  };
  for (const char* numerics : {"auto", "bf16"}) {
    EXPECT_EQ(classes_of(experts, numerics), (Labels{"f32", "bf16", "bf16+int4:128 by auto",
                                                     "int8+int4:128 by int8", "int4:128 by int4"}));
    EXPECT_EQ(classes_of(nullptr, numerics), (Labels{"f32", "bf16", "int4:128 by auto"}));
  }
}

TEST_F(FitTest, EnginesThatHoldExpertsTakeThemEach) {
  const MemoryDemand shared = DemandOf(config_, options_);
  const auto bytes = [&](NumericsClass numerics) {
    return std::ranges::find(shared.classes, weights::WeightFormats(numerics), &ClassBytes::formats)
        ->bytes;
  };
  EXPECT_EQ(shared.weight_bytes, bytes(NumericsClass::kBf16));
  options_.up.workers = 0;
  options_.up.engines = 3;
  EXPECT_EQ(DemandOf(config_, options_).weight_bytes, 3 * bytes(NumericsClass::kBf16));
  EXPECT_GT(bytes(NumericsClass::kF32), bytes(NumericsClass::kBf16));
  EXPECT_GT(bytes(NumericsClass::kBf16), bytes(NumericsClass::kInt8));
  EXPECT_GT(bytes(NumericsClass::kInt8), bytes(NumericsClass::kInt4));
}

}  // namespace
}  // namespace conclave::cli
