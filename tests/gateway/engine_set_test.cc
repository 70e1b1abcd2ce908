#include "services/gateway/engine_set.h"

#include <gtest/gtest.h>

namespace conclave::gateway {
namespace {

class NoLink final : public EngineLink {
 public:
  void Start(const SequenceStart&) override {}
  void Cancel(uint64_t) override {}
  void Tick() override {}
  void Close() override { closed_ = true; }
  bool closed() const override { return closed_; }

 private:
  bool closed_ = false;
};

EngineSet::Engine& AddConnected(EngineSet* set, const std::string& name, int64_t context = 100) {
  EngineSet::Engine& engine = set->Add(name, name + ":1", std::make_unique<NoLink>());
  engine.identity = EngineIdentity{.fingerprint = "f",
                                   .served_name = "m",
                                   .numerics_class = "f32",
                                   .system_fingerprint = "s",
                                   .context_tokens = context,
                                   .vocab_size = 10};
  return engine;
}

TEST(EngineSetTest, ChoosesTheConnectedEngineWithTheLeastLoad) {
  EngineSet set;
  EXPECT_EQ(set.LeastLoaded(), nullptr);
  AddConnected(&set, "a").load = {.running = 3, .waiting = 1};
  AddConnected(&set, "b").load = {.running = 2, .waiting = 0};
  set.Add("c", "c:1", std::make_unique<NoLink>());  // not connected
  EXPECT_EQ(set.LeastLoaded()->name, "b");
}

TEST(EngineSetTest, CountsItsOwnSequencesAtOnceAndOnlyOnce) {
  EngineSet set;
  EngineSet::Engine& a = AddConnected(&set, "a");
  EngineSet::Engine& b = AddConnected(&set, "b");
  a.own_sequences = 2;  // since the last report
  EXPECT_EQ(set.LeastLoaded()->name, "b");
  b.own_sequences = 3;
  EXPECT_EQ(set.LeastLoaded()->name, "a");
  // The next report includes our own.
  a.load.running = 2;
  a.own_at_report = 2;
  b.load.running = 3;
  b.own_at_report = 3;
  EXPECT_EQ(set.LeastLoaded()->name, "a");
  a.load.running = 6;  // four of them another gateway's
  EXPECT_EQ(set.LeastLoaded()->name, "b");
}

TEST(EngineSetTest, BreaksTiesByCacheAndAvoidsDrainingEngines) {
  EngineSet set;
  AddConnected(&set, "a").load = {.running = 1, .waiting = 0, .kv_used_ratio = 0.9};
  AddConnected(&set, "b").load = {.running = 1, .waiting = 0, .kv_used_ratio = 0.1};
  EXPECT_EQ(set.LeastLoaded()->name, "b");
  set.Find("b")->load.draining = true;
  EXPECT_EQ(set.LeastLoaded()->name, "a");
}

TEST(EngineSetTest, RequestsMustFitEveryEngine) {
  EngineSet set;
  EXPECT_FALSE(set.CommonIdentity().has_value());
  AddConnected(&set, "a", 200);
  AddConnected(&set, "b", 100);
  EXPECT_EQ(set.CommonIdentity()->context_tokens, 100);
  EXPECT_EQ(set.num_connected(), 2);
}

}  // namespace
}  // namespace conclave::gateway
