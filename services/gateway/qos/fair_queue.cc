#include "services/gateway/qos/fair_queue.h"

#include <algorithm>
#include <vector>

namespace conclave::gateway {

namespace {

// Of one tenant's requests, for one place.
constexpr int kMostAsked = 16;

}  // namespace

FairQueue::FairQueue(FairQueueOptions options) : options_(options) {}

void FairQueue::Push(WaitingRequest request) {
  auto item = std::make_unique<Item>();
  item->request = std::move(request);
  item->due = item->request.arrival + options_.patience;
  if (item->request.deadline) item->due = std::min(item->due, *item->request.deadline);
  item->in_class_since = item->request.arrival;
  item->arrival_number = next_arrival_++;
  item->request.counts_as = item->request.qos;
  ++counts_[IndexOf(item->request.qos)];
  costs_[IndexOf(item->request.qos)] += item->request.cost;
  arrivals_[IndexOf(item->request.qos)].emplace(item->request.arrival, item->request.key);
  Enter(item.get());
  items_.emplace(item->request.key, std::move(item));
}

std::optional<WaitingRequest> FairQueue::Pop(TimePoint now, const Question& may_start) {
  std::vector<Class*> order;
  for (Class& each : classes_) {
    if (each.size > 0) order.push_back(&each);
  }
  std::stable_sort(order.begin(), order.end(), [](const Class* a, const Class* b) {
    return a->virtual_time < b->virtual_time;
  });
  for (Class* const in : order) {
    for (const auto& [virtual_time, name] : in->backlogged) {
      Tenant& tenant = in->tenants.at(name);
      Item* const first = FirstThatMayStart(tenant, now, may_start);
      if (!first) continue;
      present_ = std::max(present_, in->virtual_time);
      in->present = std::max(in->present, tenant.virtual_time);
      const double cost = first->request.cost;
      in->virtual_time += cost / options_.class_weights[static_cast<size_t>(in - classes_.data())];
      tenant.served = now;
      SetVirtualTime(*in, std::string(name), tenant,
                     tenant.virtual_time + cost / first->request.weight);
      return TakeOut(first);
    }
  }
  return std::nullopt;
}

FairQueue::Item* FairQueue::FirstThatMayStart(const Tenant& tenant, TimePoint now,
                                              const Question& may_start) const {
  int asked = 0;
  for (Item* const item : tenant.waiting) {
    item->request.overdue = item->no_room_since && now - *item->no_room_since >= options_.bypass;
    const MayStart answer = may_start(item->request);
    if (answer == MayStart::kYes) return item;
    if (answer == MayStart::kNoRoom && !item->no_room_since) item->no_room_since = now;
    if (++asked == kMostAsked || item->request.overdue) return nullptr;
  }
  return nullptr;
}

QosClass FairQueue::MostUrgent(const std::function<bool(const WaitingRequest&)>& counts) const {
  for (const QosClass qos : kQosClasses) {
    for (const auto& [virtual_time, name] : classes_[IndexOf(qos)].backlogged) {
      const Tenant& tenant = classes_[IndexOf(qos)].tenants.at(name);
      if (counts((*tenant.waiting.begin())->request)) return qos;
    }
  }
  return QosClass::kSheddable;
}

std::optional<WaitingRequest> FairQueue::Remove(uint64_t key) {
  const auto found = items_.find(key);
  if (found == items_.end()) return std::nullopt;
  return TakeOut(found->second.get());
}

std::optional<WaitingRequest> FairQueue::Evict() {
  for (size_t i = kNumQosClasses; i-- > 0;) {
    const Tenant* most = nullptr;
    for (const auto& [virtual_time, name] : classes_[i].backlogged) {
      const Tenant& tenant = classes_[i].tenants.at(name);
      if (!most || tenant.cost > most->cost) most = &tenant;
    }
    if (most) return TakeOut(*most->waiting.rbegin());
  }
  return std::nullopt;
}

void FairQueue::Age(TimePoint now) {
  if (options_.aging <= Duration(0)) return;
  for (size_t i = 1; i < kNumQosClasses; ++i) {
    std::vector<Item*> starved;
    for (const auto& [virtual_time, name] : classes_[i].backlogged) {
      Tenant& tenant = classes_[i].tenants.at(name);
      Item* const first = *tenant.waiting.begin();
      if (now - std::max(first->in_class_since, tenant.served) < options_.aging) continue;
      tenant.served = now;
      starved.push_back(first);
    }
    for (Item* const item : starved) {
      Leave(item);
      item->request.counts_as = static_cast<QosClass>(i - 1);
      item->in_class_since = now;
      Enter(item);
    }
  }
}

void FairQueue::Settle(const WaitingRequest& request, double tokens) {
  const size_t index = IndexOf(request.counts_as);
  Class& in = classes_[index];
  in.virtual_time += tokens / options_.class_weights[index];
  const auto found = in.tenants.find(request.tenant);
  // A tenant that is forgotten is at the present.
  if (found == in.tenants.end() && tokens <= 0) return;
  Tenant& tenant = found == in.tenants.end() ? in.tenants[request.tenant] : found->second;
  if (found == in.tenants.end()) {
    tenant.virtual_time = in.present;
    in.idle.emplace(tenant.virtual_time, request.tenant);
  }
  SetVirtualTime(in, request.tenant, tenant, tenant.virtual_time + tokens / request.weight);
  ForgetIdle(in);
}

double FairQueue::CostAhead(uint64_t key) const {
  const Item* const item = items_.at(key).get();
  const size_t index = IndexOf(item->request.counts_as);
  const Class& in = classes_[index];
  const Tenant& own = in.tenants.at(item->request.tenant);
  double ahead = own.cost * own.weight - item->request.cost;
  for (auto later = own.waiting.rbegin(); *later != item; ++later) ahead -= (*later)->request.cost;
  ahead = std::max(0.0, ahead);
  // Until it has begun, others are given what their weights entitle them to, if they want as much.
  const double turn = (ahead + item->request.cost) / own.weight;
  for (const auto& [virtual_time, name] : in.backlogged) {
    const Tenant& other = in.tenants.at(name);
    if (&other != &own) ahead += std::min(other.cost, turn) * other.weight;
  }
  const double class_turn = (ahead + item->request.cost) / options_.class_weights[index];
  for (size_t i = 0; i < kNumQosClasses; ++i) {
    if (i != index) ahead += std::min(classes_[i].cost, class_turn * options_.class_weights[i]);
  }
  return ahead;
}

Duration FairQueue::OldestWait(QosClass qos, TimePoint now) const {
  const auto& arrivals = arrivals_[IndexOf(qos)];
  return arrivals.empty() ? Duration(0) : now - arrivals.begin()->first;
}

void FairQueue::Enter(Item* item) {
  Class& in = ClassOf(*item);
  if (in.size == 0) in.virtual_time = std::max(in.virtual_time, present_);
  const std::string& name = item->request.tenant;
  const auto [found, fresh] = in.tenants.try_emplace(name);
  Tenant& tenant = found->second;
  if (tenant.waiting.empty()) {
    if (!fresh) in.idle.erase({tenant.virtual_time, name});
    tenant.virtual_time = std::max(tenant.virtual_time, in.present);
    in.backlogged.emplace(tenant.virtual_time, name);
  }
  tenant.waiting.insert(item);
  tenant.weight = item->request.weight;
  tenant.cost += item->request.cost / item->request.weight;
  ++in.size;
  in.cost += item->request.cost;
}

void FairQueue::Leave(Item* item) {
  Class& in = ClassOf(*item);
  const std::string& name = item->request.tenant;
  Tenant& tenant = in.tenants.at(name);
  tenant.waiting.erase(item);
  tenant.cost =
      tenant.waiting.empty() ? 0 : tenant.cost - item->request.cost / item->request.weight;
  --in.size;
  in.cost = in.size == 0 ? 0 : in.cost - item->request.cost;
  if (tenant.waiting.empty()) {
    in.backlogged.erase({tenant.virtual_time, name});
    in.idle.emplace(tenant.virtual_time, name);
  }
  ForgetIdle(in);
}

WaitingRequest FairQueue::TakeOut(Item* item) {
  Leave(item);
  --counts_[IndexOf(item->request.qos)];
  costs_[IndexOf(item->request.qos)] -= item->request.cost;
  arrivals_[IndexOf(item->request.qos)].erase({item->request.arrival, item->request.key});
  WaitingRequest request = std::move(item->request);
  items_.erase(request.key);
  return request;
}

void FairQueue::SetVirtualTime(Class& in, const std::string& name, Tenant& tenant, double value) {
  Order& order = tenant.waiting.empty() ? in.idle : in.backlogged;
  order.erase({tenant.virtual_time, name});
  tenant.virtual_time = value;
  order.emplace(value, name);
}

// Whoever neither waits nor is ahead of the present has nothing to be remembered for.
void FairQueue::ForgetIdle(Class& in) {
  while (!in.idle.empty() && in.idle.begin()->first <= in.present) {
    in.tenants.erase(in.idle.begin()->second);
    in.idle.erase(in.idle.begin());
  }
}

}  // namespace conclave::gateway
