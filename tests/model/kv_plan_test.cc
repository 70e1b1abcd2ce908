#include "shared/model/kv_plan.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave::model {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kMiB = 1 << 20;

KvDemand Demand() {
  return {.model_context = 2048,
          .block_bytes = kMiB,
          .context = 0,
          .kv_bytes = 0,
          .max_batch = 4,
          .available_bytes = 10'000 * kMiB};
}

TEST(PlanKv, HoldsAFullBatchByDefault) {
  const auto plan = PlanKv(Demand());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->context_tokens, 2048);
  EXPECT_EQ(plan->num_blocks, 4 * 64);
  EXPECT_THAT(plan->reason, HasSubstr("max_batch"));
}

TEST(PlanKv, TakesAShareOfTheFreeMemory) {
  KvDemand demand = Demand();
  demand.available_bytes = 250 * kMiB;
  const auto plan = PlanKv(demand);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->num_blocks, 100);
  EXPECT_EQ(plan->context_tokens, 2048);
  EXPECT_THAT(plan->reason, HasSubstr("free memory"));
}

TEST(PlanKv, ShortensTheContextToWhatFits) {
  KvDemand demand = Demand();
  demand.available_bytes = 50 * kMiB;
  const auto plan = PlanKv(demand);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->num_blocks, 20);
  EXPECT_EQ(plan->context_tokens, 20 * 32);
}

TEST(PlanKv, FollowsTheSettings) {
  KvDemand demand = Demand();
  demand.context = 100;
  demand.kv_bytes = 7 * kMiB + 5;
  const auto plan = PlanKv(demand);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->num_blocks, 7);
  EXPECT_EQ(plan->context_tokens, 100);
  EXPECT_EQ(plan->reason, "kv_memory");
  // The exact edge: 100 tokens are four blocks.
  demand.kv_bytes = 4 * kMiB;
  EXPECT_TRUE(PlanKv(demand).ok());
  demand.kv_bytes = 4 * kMiB - 1;
  EXPECT_FALSE(PlanKv(demand).ok());
}

TEST(PlanKv, RefusesAContextBeyondTheModel) {
  KvDemand demand = Demand();
  for (int64_t context : {1, 2049}) {
    demand.context = context;
    const auto plan = PlanKv(demand);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(plan.status().message()),
                AllOf(HasSubstr(std::to_string(context)), HasSubstr("2048")));
  }
}

TEST(PlanKv, RefusesSettingsThatContradict) {
  KvDemand demand = Demand();
  demand.context = 2048;
  demand.kv_bytes = 10 * kMiB;
  const auto plan = PlanKv(demand);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(plan.status().message()),
              AllOf(HasSubstr("2048 tokens"), HasSubstr("64 MiB"), HasSubstr("10 MiB"),
                    HasSubstr("320 tokens")));
}

TEST(PlanKv, RefusesMoreThanThereIs) {
  KvDemand demand = Demand();
  demand.kv_bytes = 20'000 * kMiB;
  EXPECT_EQ(PlanKv(demand).status().code(), absl::StatusCode::kResourceExhausted);
  demand = Demand();
  demand.available_bytes = 2 * kMiB;
  EXPECT_EQ(PlanKv(demand).status().code(), absl::StatusCode::kResourceExhausted);
  demand.available_bytes = 100 * kMiB;
  demand.context = 2048;
  const auto plan = PlanKv(demand);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(plan.status().message()),
              AllOf(HasSubstr("64 MiB"), HasSubstr("100 MiB")));
}

}  // namespace
}  // namespace conclave::model
