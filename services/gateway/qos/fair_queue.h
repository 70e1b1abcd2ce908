// Which waiting request goes to an engine next: weighted fair queueing, first between classes, then
// between the tenants of a class.
//
// Each class, and in it each tenant, has a virtual time: the tokens it was given, divided by its
// weight. Whoever is furthest behind goes next, so that over any stretch in which two of them wait,
// they are served in the ratio of their weights, whatever each of them sends (start-time fair
// queueing: Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996, section 2). One that
// had nothing to wait for starts again at the present virtual time: idling saves nothing up.
//
// Requests of one tenant and class go by their deadline; one without counts as due `patience`
// after its arrival. When a tenant has waited in a class for `aging` without being served, its
// first request counts as one of the class above from then on, and so forth: no class starves,
// and a tenant that only waits behind its own requests gains nothing.
//
// Pure; owned by the core thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>

#include "shared/base/clock.h"
#include "shared/base/qos_class.h"

namespace conclave::gateway {

struct FairQueueOptions {
  PerClass<double> class_weights = {64, 16, 4, 1};
  Duration patience = std::chrono::seconds(30);
  Duration aging = std::chrono::seconds(20);
  // A request for which there is no room lets smaller ones pass for so long; then it is overdue.
  Duration bypass = std::chrono::seconds(5);
};

struct WaitingRequest {
  uint64_t key = 0;
  QosClass qos = QosClass::kInteractive;
  std::string tenant;
  double weight = 1;  // the tenant's, > 0
  double cost = 1;    // tokens it is expected to take, > 0
  TimePoint arrival;
  std::optional<TimePoint> deadline;
  // Set by the queue: the class it has come to count as while it waited, and whether there has been
  // no room for it for too long.
  QosClass counts_as = QosClass::kInteractive;
  bool overdue = false;
};

// What the owner of a queue says of a request whose turn it is: go; not now, for a reason of its
// class's or its tenant's; not now, because no engine has room for it.
enum class MayStart : uint8_t { kYes, kNo, kNoRoom };

class FairQueue {
 public:
  explicit FairQueue(FairQueueOptions options);

  // Precondition: the key does not wait.
  void Push(WaitingRequest request);
  // Takes out the next one that may start; nullopt when none of those waiting may. Asked are, in
  // the order of service, the first ones of each tenant in each class: of a tenant none behind one
  // that is overdue.
  using Question = std::function<MayStart(const WaitingRequest&)>;
  std::optional<WaitingRequest> Pop(TimePoint now, const Question& may_start);
  // The most urgent class in which the first request of any tenant `counts`; kSheddable when none
  // does anywhere.
  QosClass MostUrgent(const std::function<bool(const WaitingRequest&)>& counts) const;
  // Takes out one that is not wanted any more; nullopt: it does not wait.
  std::optional<WaitingRequest> Remove(uint64_t key);
  // Makes room in a full queue: takes out the last request of the tenant that has most waiting for
  // its weight, in the lowest class that has any (longest queue drop: who sends too much loses its
  // own). nullopt: the queue is empty.
  std::optional<WaitingRequest> Evict();
  // Moves up what has starved; several times a second.
  void Age(TimePoint now);
  // Corrects what a request that was popped has cost: `tokens` more than it was expected to (or
  // fewer, if negative).
  void Settle(const WaitingRequest& request, double tokens);

  int64_t size() const { return static_cast<int64_t>(items_.size()); }
  // Of those that asked for the class.
  int64_t size(QosClass qos) const { return counts_[IndexOf(qos)]; }
  // Tokens that those are expected to take.
  double cost(QosClass qos) const { return costs_[IndexOf(qos)]; }
  // Tokens that will be given to others, and to earlier requests of its own tenant, until it is the
  // turn of this one, if everybody has the share of its weight. Precondition: the key waits.
  double CostAhead(uint64_t key) const;
  // The longest wait of those that asked for the class; zero when none waits.
  Duration OldestWait(QosClass qos, TimePoint now) const;

 private:
  struct Item {
    WaitingRequest request;
    TimePoint due;
    TimePoint in_class_since;
    std::optional<TimePoint> no_room_since;
    uint64_t arrival_number = 0;
  };
  struct EarlierDue {
    bool operator()(const Item* a, const Item* b) const {
      return std::pair(a->due, a->arrival_number) < std::pair(b->due, b->arrival_number);
    }
  };
  struct Tenant {
    double virtual_time = 0;
    double cost = 0;  // of all that wait, divided by the weight
    double weight = 1;
    TimePoint served;  // last
    std::set<Item*, EarlierDue> waiting;
  };
  // Tenants in the order of their virtual time.
  using Order = std::set<std::pair<double, std::string>>;
  struct Class {
    double virtual_time = 0;
    double present = 0;  // where the tenant served last began
    double cost = 0;     // of all that wait
    int64_t size = 0;
    std::unordered_map<std::string, Tenant> tenants;
    Order backlogged;  // tenants that wait
    Order idle;        // the others, as long as they are ahead of the present
  };

  Item* FirstThatMayStart(const Tenant& tenant, TimePoint now, const Question& may_start) const;
  Class& ClassOf(const Item& item) { return classes_[IndexOf(item.request.counts_as)]; }
  void Enter(Item* item);
  void Leave(Item* item);
  WaitingRequest TakeOut(Item* item);
  static void SetVirtualTime(Class& in, const std::string& name, Tenant& tenant, double value);
  static void ForgetIdle(Class& in);

  const FairQueueOptions options_;
  PerClass<Class> classes_;
  PerClass<int64_t> counts_ = {};
  PerClass<double> costs_ = {};  // by the class asked for, as counts_
  PerClass<std::set<std::pair<TimePoint, uint64_t>>> arrivals_;  // by the class asked for
  double present_ = 0;                                           // virtual time of the classes
  uint64_t next_arrival_ = 0;
  std::unordered_map<uint64_t, std::unique_ptr<Item>> items_;
};

}  // namespace conclave::gateway
