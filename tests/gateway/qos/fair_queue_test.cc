#include "services/gateway/qos/fair_queue.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <numeric>
#include <vector>

namespace conclave::gateway {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

MayStart Always(const WaitingRequest&) { return MayStart::kYes; }

class FairQueueTest : public testing::Test {
 protected:
  uint64_t Push(FairQueue& queue, QosClass qos, const std::string& tenant, double cost = 1,
                double weight = 1, std::optional<Duration> remaining = std::nullopt) {
    WaitingRequest request{.key = ++last_key_,
                           .qos = qos,
                           .tenant = tenant,
                           .weight = weight,
                           .cost = cost,
                           .arrival = clock_.Now(),
                           .deadline = std::nullopt};
    if (remaining) request.deadline = clock_.Now() + *remaining;
    queue.Push(std::move(request));
    return last_key_;
  }
  // Tokens given to each name of `name_of` in the next `count` requests.
  std::map<std::string, double> Serve(
      FairQueue& queue, int count,
      const std::function<std::string(const WaitingRequest&)>& name_of) {
    std::map<std::string, double> given;
    for (int i = 0; i < count; ++i) {
      const std::optional<WaitingRequest> request = queue.Pop(clock_.Now(), Always);
      if (!request) break;
      given[name_of(*request)] += request->cost;
    }
    return given;
  }
  // As what the first request in the order of service counts.
  QosClass CountsAs(FairQueue& queue) {
    std::optional<QosClass> counts_as;
    queue.Pop(clock_.Now(), [&](const WaitingRequest& request) {
      if (!counts_as) counts_as = request.counts_as;
      return MayStart::kNo;
    });
    return *counts_as;
  }
  static std::string ByTenant(const WaitingRequest& request) { return request.tenant; }
  static std::string ByClass(const WaitingRequest& request) { return QosClassName(request.qos); }

  SimulatedClock clock_;
  uint64_t last_key_ = 0;
};

TEST_F(FairQueueTest, IsEmptyAtFirst) {
  FairQueue queue({});
  EXPECT_FALSE(queue.Pop(clock_.Now(), Always));
  EXPECT_EQ(queue.size(), 0);
  EXPECT_EQ(queue.OldestWait(QosClass::kBatch, clock_.Now()), Duration(0));
  EXPECT_FALSE(queue.Remove(1));
  EXPECT_FALSE(queue.Evict());
}

TEST_F(FairQueueTest, SharesByWeightWhateverATenantSends) {
  FairQueue queue({});
  for (int i = 0; i < 2000; ++i) Push(queue, QosClass::kInteractive, "loud", 3, 1);
  for (int i = 0; i < 400; ++i) Push(queue, QosClass::kInteractive, "quiet", 5, 1);
  std::map<std::string, double> given = Serve(queue, 600, ByTenant);
  EXPECT_NEAR(given["loud"] / given["quiet"], 1, 0.01);
  FairQueue weighted({});
  for (int i = 0; i < 1000; ++i) {
    Push(weighted, QosClass::kBatch, "a", 2, 3);
    Push(weighted, QosClass::kBatch, "b", 2, 1);
  }
  given = Serve(weighted, 400, ByTenant);
  EXPECT_NEAR(given["a"] / given["b"], 3, 0.05);
}

TEST_F(FairQueueTest, SharesBetweenClassesByWeight) {
  FairQueue queue({.class_weights = {8, 4, 2, 1}});
  for (int i = 0; i < 1000; ++i) {
    for (const QosClass qos : kQosClasses) Push(queue, qos, "t");
  }
  std::map<std::string, double> given = Serve(queue, 1500, ByClass);
  EXPECT_NEAR(given["realtime"], 800, 8);
  EXPECT_NEAR(given["interactive"], 400, 8);
  EXPECT_NEAR(given["batch"], 200, 8);
  EXPECT_NEAR(given["sheddable"], 100, 8);
}

TEST_F(FairQueueTest, ServesARarerClassAtOnce) {
  FairQueue queue({});
  for (int i = 0; i < 100; ++i) Push(queue, QosClass::kSheddable, "s", 100);
  Serve(queue, 50, ByClass);
  const uint64_t urgent = Push(queue, QosClass::kRealtime, "r", 100);
  EXPECT_EQ(queue.Pop(clock_.Now(), Always)->key, urgent);
}

TEST_F(FairQueueTest, IdlingSavesNothingUp) {
  FairQueue queue({});
  Push(queue, QosClass::kBatch, "late");
  for (int i = 0; i < 1000; ++i) Push(queue, QosClass::kBatch, "steady");
  Serve(queue, 500, ByTenant);  // "late" had its one request served long ago
  for (int i = 0; i < 1000; ++i) Push(queue, QosClass::kBatch, "late");
  std::map<std::string, double> given = Serve(queue, 200, ByTenant);
  EXPECT_NEAR(given["late"], given["steady"], 2);
}

TEST_F(FairQueueTest, LeavingTheQueueForgetsNoDebt) {
  FairQueue queue({});
  Push(queue, QosClass::kBatch, "greedy", 1000);
  Push(queue, QosClass::kBatch, "other", 1);
  EXPECT_EQ(Serve(queue, 1, ByTenant)["greedy"], 1000);
  for (int i = 0; i < 300; ++i) {
    Push(queue, QosClass::kBatch, "greedy", 10);
    Push(queue, QosClass::kBatch, "other", 10);
  }
  EXPECT_EQ(Serve(queue, 100, ByTenant)["greedy"], 0);  // "other" catches up first
}

TEST_F(FairQueueTest, SettlesWhatARequestHasReallyCost) {
  FairQueue queue({});
  Push(queue, QosClass::kBatch, "a", 10);
  Push(queue, QosClass::kBatch, "b", 10);
  const std::optional<WaitingRequest> first = queue.Pop(clock_.Now(), Always);
  queue.Settle(*first, 990);  // "a" wrote much more than expected
  for (int i = 0; i < 99; ++i) Push(queue, QosClass::kBatch, "a", 10);
  for (int i = 0; i < 99; ++i) Push(queue, QosClass::kBatch, "b", 10);
  EXPECT_EQ(Serve(queue, 99, ByTenant)["b"], 990);
  EXPECT_NEAR(Serve(queue, 20, ByTenant)["a"], 190, 10);
}

TEST_F(FairQueueTest, ServesATenantsEarliestDeadlineFirst) {
  FairQueue queue({.patience = seconds(30)});
  const uint64_t patient = Push(queue, QosClass::kInteractive, "t");
  const uint64_t soon = Push(queue, QosClass::kInteractive, "t", 1, 1, seconds(20));
  const uint64_t sooner = Push(queue, QosClass::kInteractive, "t", 1, 1, seconds(10));
  const uint64_t far = Push(queue, QosClass::kInteractive, "t", 1, 1, seconds(60));
  for (const uint64_t key : {sooner, soon, patient, far}) {
    EXPECT_EQ(queue.Pop(clock_.Now(), Always)->key, key);
  }
}

TEST_F(FairQueueTest, AStarvedTenantMovesUp) {
  FairQueue queue({.class_weights = {1e3, 1e2, 1, 1e-3}, .aging = seconds(10)});
  for (int i = 0; i < 200; ++i) Push(queue, QosClass::kRealtime, "r");
  Push(queue, QosClass::kSheddable, "s");
  // Its class has had its turn for a thousand virtual seconds.
  EXPECT_EQ(Serve(queue, 2, ByClass)["sheddable"], 1);
  const uint64_t old = Push(queue, QosClass::kSheddable, "old");
  EXPECT_EQ(Serve(queue, 100, ByClass)["sheddable"], 0);
  clock_.Advance(seconds(10));
  queue.Age(clock_.Now());
  std::optional<WaitingRequest> next = queue.Pop(clock_.Now(), Always);
  if (next->key != old) next = queue.Pop(clock_.Now(), Always);
  EXPECT_EQ(next->key, old);
  EXPECT_EQ(next->qos, QosClass::kSheddable);
  EXPECT_EQ(next->counts_as, QosClass::kBatch);
}

TEST_F(FairQueueTest, MovesUpAStepAfterEachPeriod) {
  FairQueue queue({.aging = seconds(10)});
  Push(queue, QosClass::kBatch, "t");
  clock_.Advance(seconds(9));
  queue.Age(clock_.Now());
  EXPECT_EQ(CountsAs(queue), QosClass::kBatch);
  clock_.Advance(seconds(1));
  queue.Age(clock_.Now());
  EXPECT_EQ(CountsAs(queue), QosClass::kInteractive);
  clock_.Advance(seconds(10));
  queue.Age(clock_.Now());
  EXPECT_EQ(CountsAs(queue), QosClass::kRealtime);
  EXPECT_EQ(queue.size(QosClass::kBatch), 1);
  EXPECT_EQ(queue.cost(QosClass::kBatch), 1);
}

TEST_F(FairQueueTest, WaitingBehindOnesOwnRequestsIsNoReasonToMoveUp) {
  FairQueue queue({.aging = seconds(10)});
  for (int i = 0; i < 100; ++i) Push(queue, QosClass::kBatch, "t");
  for (int i = 0; i < 50; ++i) {
    queue.Pop(clock_.Now(), Always);
    clock_.Advance(seconds(1));
    queue.Age(clock_.Now());
    EXPECT_EQ(CountsAs(queue), QosClass::kBatch);
  }
}

TEST_F(FairQueueTest, PassesOverTenantsAndClassesThatMayNotStart) {
  FairQueue queue({});
  Push(queue, QosClass::kRealtime, "full");
  const uint64_t free = Push(queue, QosClass::kRealtime, "free");
  Push(queue, QosClass::kBatch, "free");
  int asked = 0;
  const auto may = [&](const WaitingRequest& request) {
    ++asked;
    return request.qos == QosClass::kRealtime && request.tenant == "free" ? MayStart::kYes
                                                                          : MayStart::kNo;
  };
  EXPECT_EQ(queue.Pop(clock_.Now(), may)->key, free);
  asked = 0;
  EXPECT_FALSE(queue.Pop(clock_.Now(), may));
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(queue.size(), 2);
}

TEST_F(FairQueueTest, SmallerOnesPassALargeOneForAWhile) {
  FairQueue queue({.bypass = seconds(5)});
  const uint64_t large = Push(queue, QosClass::kBatch, "t", 100);
  const auto small_ones = [](const WaitingRequest& request) {
    return request.cost < 10 ? MayStart::kYes : MayStart::kNoRoom;
  };
  Push(queue, QosClass::kBatch, "t", 1);
  EXPECT_EQ(queue.Pop(clock_.Now(), small_ones)->cost, 1);
  clock_.Advance(seconds(5));
  Push(queue, QosClass::kBatch, "t", 1);
  EXPECT_FALSE(queue.Pop(clock_.Now(), small_ones)) << "now it is its turn";
  EXPECT_EQ(queue.Pop(clock_.Now(), Always)->key, large);
}

TEST_F(FairQueueTest, EvictsTheLastOfTheLowestClass) {
  FairQueue queue({});
  const uint64_t first = Push(queue, QosClass::kSheddable, "t", 1, 1, seconds(1));
  const uint64_t last = Push(queue, QosClass::kSheddable, "t", 1, 1, seconds(2));
  const uint64_t batch = Push(queue, QosClass::kBatch, "t");
  for (const uint64_t key : {last, first, batch}) EXPECT_EQ(queue.Evict()->key, key);
  EXPECT_FALSE(queue.Evict());
  EXPECT_EQ(queue.size(), 0);
}

TEST_F(FairQueueTest, EvictsFromWhoHasMostForItsWeight) {
  FairQueue queue({});
  Push(queue, QosClass::kBatch, "heavy", 30, 4);
  const uint64_t victim = Push(queue, QosClass::kBatch, "loud", 5);
  const uint64_t next = Push(queue, QosClass::kBatch, "loud", 5, 1, seconds(1));
  Push(queue, QosClass::kBatch, "quiet", 1);
  EXPECT_EQ(queue.Evict()->key, victim);
  EXPECT_EQ(queue.Evict()->tenant, "heavy");
  EXPECT_EQ(queue.Evict()->key, next);
}

TEST_F(FairQueueTest, CountsWhatWaits) {
  FairQueue queue({});
  const uint64_t key = Push(queue, QosClass::kRealtime, "t", 5);
  clock_.Advance(milliseconds(10));
  Push(queue, QosClass::kBatch, "t", 7);
  EXPECT_EQ(queue.size(), 2);
  EXPECT_EQ(queue.size(QosClass::kBatch), 1);
  EXPECT_EQ(queue.OldestWait(QosClass::kRealtime, clock_.Now()), milliseconds(10));
  EXPECT_EQ(queue.cost(QosClass::kRealtime), 5);
  EXPECT_EQ(queue.Remove(key)->key, key);
  EXPECT_EQ(queue.cost(QosClass::kRealtime), 0);
  EXPECT_EQ(queue.cost(QosClass::kBatch), 7);
}

TEST_F(FairQueueTest, TellsWhatIsServedBeforeARequest) {
  FairQueue queue({.class_weights = {64, 16, 4, 1}});
  EXPECT_EQ(queue.CostAhead(Push(queue, QosClass::kInteractive, "loud", 10)), 0);
  for (int i = 0; i < 99; ++i) Push(queue, QosClass::kInteractive, "loud", 10);
  // Its own ones, but for those that are due later.
  Push(queue, QosClass::kInteractive, "loud", 10, 1, seconds(60));
  EXPECT_EQ(queue.CostAhead(Push(queue, QosClass::kInteractive, "loud", 10, 1, seconds(20))), 0);
  EXPECT_EQ(queue.CostAhead(Push(queue, QosClass::kInteractive, "loud", 10)), 1020);
  // Of another tenant what its weight entitles it to meanwhile.
  EXPECT_EQ(queue.CostAhead(Push(queue, QosClass::kInteractive, "quiet", 5)), 5);
  EXPECT_EQ(queue.CostAhead(Push(queue, QosClass::kInteractive, "heavy", 8, 4)), 2 + 2);
  // Of another class as well, if it has so much.
  EXPECT_EQ(queue.CostAhead(Push(queue, QosClass::kRealtime, "urgent", 64)), 16);
  EXPECT_EQ(queue.CostAhead(Push(queue, QosClass::kBatch, "night", 40)), 64 + 160);
  EXPECT_EQ(queue.CostAhead(Push(queue, QosClass::kSheddable, "shed", 1000)), 64 + 1043 + 40);
}

TEST_F(FairQueueTest, ARequestWithoutRoomIsOverdueInTheEnd) {
  FairQueue queue({.bypass = seconds(5)});
  const uint64_t large = Push(queue, QosClass::kBatch, "a", 100);
  const uint64_t capped = Push(queue, QosClass::kBatch, "b", 1);
  std::map<uint64_t, bool> overdue;
  const auto ask = [&](const WaitingRequest& request) {
    overdue[request.key] = request.overdue;
    return request.key == large ? MayStart::kNoRoom : MayStart::kNo;
  };
  clock_.Advance(seconds(60));  // nobody has asked for it: it has waited for its turn
  EXPECT_FALSE(queue.Pop(clock_.Now(), ask));
  EXPECT_FALSE(overdue[large]);
  clock_.Advance(seconds(5));
  EXPECT_FALSE(queue.Pop(clock_.Now(), ask));
  EXPECT_TRUE(overdue[large]);
  EXPECT_FALSE(overdue[capped]) << "it waits for its own tenant";
}

// However requests come and go: nothing is lost or served twice, and tenants that always wait are
// never further apart than two of the largest requests allow.
RC_GTEST_PROP(FairQueueProperty, KeepsAllAndSharesFairly, ()) {
  FairQueue queue({.aging = Duration(0)});
  SimulatedClock clock;
  const int num_tenants = *rc::gen::inRange(2, 6);
  const std::vector<double> weights = *rc::gen::container<std::vector<double>>(
      static_cast<size_t>(num_tenants),
      rc::gen::map(rc::gen::inRange(1, 9), [](int w) { return static_cast<double>(w); }));
  uint64_t key = 0;
  std::map<uint64_t, double> waiting;
  std::vector<double> given(static_cast<size_t>(num_tenants), 0);
  const auto push = [&](int tenant) {
    const double cost = *rc::gen::inRange(1, 100);
    queue.Push({.key = ++key,
                .qos = QosClass::kBatch,
                .tenant = std::to_string(tenant),
                .weight = weights[static_cast<size_t>(tenant)],
                .cost = cost,
                .arrival = clock.Now(),
                .deadline = std::nullopt});
    waiting[key] = cost;
  };
  for (int tenant = 0; tenant < num_tenants; ++tenant) push(tenant), push(tenant);
  const int steps = *rc::gen::inRange(10, 200);
  for (int i = 0; i < steps; ++i) {
    const std::optional<WaitingRequest> next = queue.Pop(clock.Now(), Always);
    RC_ASSERT(next.has_value());
    RC_ASSERT(waiting.erase(next->key) == 1U);
    const int tenant = std::stoi(next->tenant);
    given[static_cast<size_t>(tenant)] += next->cost / next->weight;
    push(tenant);  // it always has two
    if (*rc::gen::inRange(0, 4) == 0) push(*rc::gen::inRange(0, num_tenants));
  }
  RC_ASSERT(queue.size() == static_cast<int64_t>(waiting.size()));
  for (size_t a = 0; a < given.size(); ++a) {
    for (size_t b = 0; b < given.size(); ++b) {
      RC_ASSERT(given[a] - given[b] <= 100 / weights[a] + 100 / weights[b]);
    }
  }
}

}  // namespace
}  // namespace conclave::gateway
