#include "shared/placement/planner.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

namespace conclave::placement {
namespace {

ModelIdentity MakeModel(int32_t layers, int32_t experts, int64_t expert_bytes = 100) {
  ModelIdentity model;
  model.fingerprint = "f";
  model.num_experts = experts;
  model.expert_bytes = expert_bytes;
  for (int32_t layer = 1; layer <= layers; ++layer) model.moe_layers.push_back(layer);
  return model;
}

std::vector<PlannerWorker> MakeWorkers(int count, int64_t capacity_bytes = 0) {
  std::vector<PlannerWorker> workers;
  for (int i = 0; i < count; ++i) {
    workers.push_back({"expert-" + std::to_string(i), capacity_bytes});
  }
  return workers;
}

std::map<std::string, int> CountByWorker(const Owners& owners) {
  std::map<std::string, int> counts;
  for (const auto& [key, owner] : owners) ++counts[owner];
  return counts;
}

int CountMoved(const Owners& before, const Owners& after) {
  int moved = 0;
  for (const auto& [key, owner] : after) {
    const auto it = before.find(key);
    if (it != before.end() && it->second != owner) ++moved;
  }
  return moved;
}

TEST(PlannerTest, WithoutWorkersNothingIsPlaced) {
  const ModelIdentity model = MakeModel(2, 3);
  const Plan plan = PlanPlacement(model, {}, {});
  EXPECT_TRUE(plan.owners.empty());
  EXPECT_EQ(plan.unplaced, model.AllExperts());
}

TEST(PlannerTest, OneWorkerOwnsEverything) {
  const Plan plan = PlanPlacement(MakeModel(4, 16), MakeWorkers(1), {});
  EXPECT_EQ(CountByWorker(plan.owners), (std::map<std::string, int>{{"expert-0", 64}}));
  EXPECT_TRUE(plan.unplaced.empty());
}

TEST(PlannerTest, LayersAreSpreadOverAllWorkers) {
  const Plan plan = PlanPlacement(MakeModel(4, 16), MakeWorkers(2), {});
  std::map<std::pair<int32_t, std::string>, int> counts;
  for (const auto& [key, owner] : plan.owners) ++counts[{key.layer, owner}];
  for (const auto& [layer_and_worker, count] : counts) EXPECT_EQ(count, 8);
  EXPECT_EQ(counts.size(), 8u);
}

TEST(PlannerTest, UnevenSharesAreBalancedOverTheLayers) {
  const Plan plan = PlanPlacement(MakeModel(3, 16), MakeWorkers(3), {});
  for (const auto& [worker, count] : CountByWorker(plan.owners)) EXPECT_EQ(count, 16) << worker;
}

TEST(PlannerTest, ASecondWorkerTakesHalfAndNothingElseMoves) {
  const ModelIdentity model = MakeModel(4, 16);
  const Plan one = PlanPlacement(model, MakeWorkers(1), {});
  const Plan two = PlanPlacement(model, MakeWorkers(2), one.owners);
  EXPECT_EQ(CountMoved(one.owners, two.owners), 32);
}

TEST(PlannerTest, CapacityLimitsAWorkersShare) {
  std::vector<PlannerWorker> workers = MakeWorkers(2);
  workers[0].capacity_bytes = 450;  // four experts of 100 bytes
  const Plan plan = PlanPlacement(MakeModel(2, 8), workers, {});
  EXPECT_EQ(CountByWorker(plan.owners),
            (std::map<std::string, int>{{"expert-0", 4}, {"expert-1", 12}}));
}

TEST(PlannerTest, WhatFitsNowhereIsReported) {
  const Plan plan = PlanPlacement(MakeModel(2, 8), MakeWorkers(2, 500), {});
  EXPECT_EQ(plan.owners.size(), 10u);
  EXPECT_EQ(plan.unplaced.size(), 6u);
}

TEST(PlannerTest, OneExpertALayer) {
  const Plan plan = PlanPlacement(MakeModel(5, 1), MakeWorkers(3), {});
  EXPECT_EQ(plan.owners.size(), 5u);
  for (const auto& [worker, count] : CountByWorker(plan.owners)) EXPECT_LE(count, 2) << worker;
}

TEST(PlannerTest, IsCompleteBalancedAndStable) {
  const bool held = rc::check("any shape", [] {
    const ModelIdentity model = MakeModel(*rc::gen::inRange(1, 6), *rc::gen::inRange(1, 33));
    const std::vector<PlannerWorker> before_workers = MakeWorkers(*rc::gen::inRange(1, 7));
    const std::vector<PlannerWorker> workers = MakeWorkers(*rc::gen::inRange(1, 7));
    const Plan before = PlanPlacement(model, before_workers, {});
    const Plan plan = PlanPlacement(model, workers, before.owners);
    const int total = static_cast<int>(model.moe_layers.size()) * model.num_experts;
    RC_ASSERT(static_cast<int>(plan.owners.size()) == total);
    RC_ASSERT(plan.unplaced.empty());
    int least = total, most = 0;
    const auto counts = CountByWorker(plan.owners);
    for (const PlannerWorker& worker : workers) {
      const auto it = counts.find(worker.name);
      const int count = it == counts.end() ? 0 : it->second;
      least = std::min(least, count);
      most = std::max(most, count);
    }
    RC_ASSERT(most - least <= 1);
    // Planning again from the result changes nothing.
    RC_ASSERT(PlanPlacement(model, workers, plan.owners).owners == plan.owners);
  });
  EXPECT_TRUE(held);
}

}  // namespace
}  // namespace conclave::placement
