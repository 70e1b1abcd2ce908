#include "services/gateway/engine_set.h"

#include <gtest/gtest.h>

#include <chrono>
#include <utility>

namespace conclave::gateway {
namespace {

class NoLink final : public EngineLink {
 public:
  void Start(const SequenceStart&) override {}
  void Cancel(uint64_t) override {}
  void Finish() override { ++finishes; }
  void Tick() override {}
  void Close() override { closed_ = true; }
  bool closed() const override { return closed_; }

  int finishes = 0;

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
  EXPECT_EQ(set.Choose({}), nullptr);
  AddConnected(&set, "a").load = {.running = 3, .waiting = 1};
  AddConnected(&set, "b").load = {.running = 2, .waiting = 0};
  set.Add("c", "c:1", std::make_unique<NoLink>());  // not connected
  EXPECT_EQ(set.Choose({})->name, "b");
}

TEST(EngineSetTest, CountsItsOwnSequencesAtOnceAndOnlyOnce) {
  EngineSet set;
  EngineSet::Engine& a = AddConnected(&set, "a");
  EngineSet::Engine& b = AddConnected(&set, "b");
  a.own_sequences = 2;  // since the last report
  EXPECT_EQ(set.Choose({})->name, "b");
  b.own_sequences = 3;
  EXPECT_EQ(set.Choose({})->name, "a");
  // The next report includes our own.
  a.load.running = 2;
  a.own_at_report = 2;
  b.load.running = 3;
  b.own_at_report = 3;
  EXPECT_EQ(set.Choose({})->name, "a");
  a.load.running = 6;  // four of them another gateway's
  EXPECT_EQ(set.Choose({})->name, "b");
}

TEST(EngineSetTest, BreaksTiesByCacheAndAvoidsDrainingEngines) {
  EngineSet set;
  AddConnected(&set, "a").load = {.running = 1, .waiting = 0, .kv_used_ratio = 0.9};
  AddConnected(&set, "b").load = {.running = 1, .waiting = 0, .kv_used_ratio = 0.1};
  EXPECT_EQ(set.Choose({})->name, "b");
  set.Find("b")->load.draining = true;
  EXPECT_EQ(set.Choose({})->name, "a");
}

TEST(EngineSetTest, WeighsACachedPrefixAgainstLoad) {
  EngineSet set;
  EngineSet::Engine& a = AddConnected(&set, "a");
  EngineSet::Engine& b = AddConnected(&set, "b");
  const std::vector<uint64_t> hashes = PrefixHashes("", std::vector<int32_t>(800, 5));
  b.prefixes.Remember(hashes, 10'000);
  EXPECT_EQ(set.Choose({})->name, "a");
  EXPECT_EQ(set.Choose({.prefix_hashes = hashes})->name, "b");
  b.own_sequences = 3;  // 800 tokens are worth a little more
  EXPECT_EQ(set.Choose({.prefix_hashes = hashes})->name, "b");
  b.own_sequences = 4;
  EXPECT_EQ(set.Choose({.prefix_hashes = hashes})->name, "a");
  const std::vector<uint64_t> longer = PrefixHashes("", std::vector<int32_t>(8000, 5));
  b.prefixes.Remember(longer, 10'000);
  b.own_sequences = 5;  // four are the most that a prefix is worth
  EXPECT_EQ(set.Choose({.prefix_hashes = longer})->name, "a");
  b.own_sequences = 0;
  b.load.draining = true;
  EXPECT_EQ(set.Choose({.prefix_hashes = hashes})->name, "a");
  b.load.draining = false;
  EXPECT_EQ(set.Choose({.prefix_hashes = hashes}, &b), &a) << "set aside for another one";
}

TEST(EngineSetTest, FinishesTheLinkOfOneThatLeavesOnceItsSequencesHaveEnded) {
  EngineSet set;
  EngineSet::Engine& a = AddConnected(&set, "a");
  const auto& link = static_cast<const NoLink&>(*a.link);
  EngineSet::FinishIdle(&a);
  EXPECT_EQ(link.finishes, 0) << "it does not leave";
  a.leaving = true;
  a.own_sequences = 1;
  EngineSet::FinishIdle(&a);
  EXPECT_EQ(link.finishes, 0) << "one runs there";
  a.own_sequences = 0;
  EngineSet::FinishIdle(&a);
  EngineSet::FinishIdle(&a);
  EXPECT_EQ(link.finishes, 1);
  EXPECT_EQ(set.Choose({}), nullptr);
}

TEST(EngineSetTest, RequestsMustFitEveryEngine) {
  EngineSet set;
  EXPECT_FALSE(set.CommonIdentity().has_value());
  AddConnected(&set, "a", 200);
  AddConnected(&set, "b", 100);
  EXPECT_EQ(set.CommonIdentity()->context_tokens, 100);
  EXPECT_EQ(set.num_connected(), 2);
}

// An engine that is connected and offers a fingerprint.
EngineSet::Engine& AddOffering(EngineSet* set, const std::string& name,
                               const std::string& fingerprint) {
  EngineSet::Engine& engine = AddConnected(set, name);
  engine.identity->fingerprint = fingerprint;
  engine.offered = std::exchange(engine.identity, std::nullopt);
  return engine;
}

constexpr Duration kHold = std::chrono::seconds(10);

TEST(EngineSetTest, UsesOnlyEnginesOfTheFingerprintThatCameFirst) {
  EngineSet set;
  SimulatedClock clock;
  EXPECT_FALSE(set.Bind(clock.Now(), kHold).changed);
  AddOffering(&set, "b", "old");
  EXPECT_TRUE(set.Bind(clock.Now(), kHold).changed);
  AddOffering(&set, "a", "new");
  AddOffering(&set, "c", "new");
  AddOffering(&set, "d", "old");
  const EngineSet::Binding binding = set.Bind(clock.Now(), kHold);
  EXPECT_FALSE(binding.changed) << "the many outvoted the one that serves";
  EXPECT_EQ(binding.refused, (std::vector<std::string>{"a", "c"}));
  EXPECT_EQ(set.num_connected(), 2);
  EXPECT_EQ(set.num_refused(), 2);
  EXPECT_NE(set.Find("a")->refusal.find("another served_name"), std::string::npos);
  EXPECT_TRUE(set.Bind(clock.Now(), kHold).refused.empty()) << "said twice";
  set.Find("b")->own_sequences = 5;
  set.Find("d")->own_sequences = 6;
  EXPECT_EQ(set.Choose({})->name, "b");  // and not an idle one of the other fingerprint
}

TEST(EngineSetTest, HoldsTheFingerprintWhileItsEnginesRestart) {
  EngineSet set;
  SimulatedClock clock;
  AddOffering(&set, "a", "old");
  set.Bind(clock.Now(), kHold);
  AddOffering(&set, "b", "new");
  set.Find("a")->offered.reset();
  set.Find("a")->identity.reset();
  clock.Advance(kHold - Duration(1));
  set.Bind(clock.Now(), kHold);
  EXPECT_EQ(set.Choose({}), nullptr) << "another model answers under the same name";
  set.Find("a")->offered = set.Find("b")->offered;
  set.Find("a")->offered->fingerprint = "old";
  set.Bind(clock.Now(), kHold);
  EXPECT_EQ(set.Choose({})->name, "a");
}

TEST(EngineSetTest, BindsWhatMostEnginesHaveWhenTheOldFingerprintIsGone) {
  EngineSet set;
  SimulatedClock clock;
  AddOffering(&set, "a", "old");
  set.Bind(clock.Now(), kHold);
  AddOffering(&set, "b", "odd");
  AddOffering(&set, "c", "new");
  AddOffering(&set, "d", "new");
  set.Remove("a");
  clock.Advance(kHold);
  const EngineSet::Binding binding = set.Bind(clock.Now(), kHold);
  EXPECT_TRUE(binding.changed);
  EXPECT_EQ(set.fingerprint(), "new");
  EXPECT_EQ(set.num_connected(), 2);
  EXPECT_EQ(set.num_refused(), 1);
}

}  // namespace
}  // namespace conclave::gateway
