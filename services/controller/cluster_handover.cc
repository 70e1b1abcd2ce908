// Workers that drain: who takes their experts, and when they are needed no more.
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/controller/cluster.h"

namespace conclave::controller {

using placement::ExpertKey;
using placement::ExpertKeys;
using placement::Handover;
using placement::MemberKind;
using placement::MemberState;
using placement::ModelTopology;
using placement::TopologyWorker;

bool Cluster::IsTaker(const Member& member, const std::string& fingerprint) {
  const Report& report = member.report;
  return member.live && report.kind == MemberKind::kExpert && report.status.model &&
         report.status.model->fingerprint == fingerprint &&
         report.status.state != MemberState::kDraining;
}

bool Cluster::HasTaker(const std::string& fingerprint) const {
  for (const auto& [name, member] : members_) {
    if (IsTaker(member, fingerprint)) return true;
  }
  return false;
}

bool Cluster::KeepsItsPlace(const Member& member, const std::string& fingerprint) const {
  if (member.live) return IsTaker(member, fingerprint);
  return !member.report.leaving && member.report.status.state != MemberState::kDraining &&
         Now() - member.last_report < options_.reassign_after;
}

size_t Cluster::NumOwned(const Report& worker) const {
  if (worker.kind != MemberKind::kExpert || !worker.status.model) return 0;
  const auto model = models_.find(worker.status.model->fingerprint);
  if (model == models_.end()) return 0;
  size_t owned = 0;
  for (const auto& [key, owner] : model->second.owners) owned += owner == worker.name ? 1 : 0;
  return owned;
}

ExpertKeys Cluster::WithoutRoom(const std::string& fingerprint,
                                const TopologyWorker& worker) const {
  ExpertKeys without;
  const Model& model = models_.at(fingerprint);
  if (model.replan) return without;
  for (const ExpertKey& key : worker.serve) {
    if (!model.owners.contains(key)) without.insert(key);
  }
  return without;
}

ExpertKeys Cluster::KeptBy(const Model& model, const Member& worker) const {
  const Report& report = worker.report;
  // Who drains releases nothing.
  if (report.status.state == MemberState::kDraining) return report.status.holds;
  ExpertKeys kept;
  for (const ExpertKey& key : report.status.holds) {
    if (!model.let_go.contains({key, report.name})) kept.insert(kept.end(), key);
  }
  return kept;
}

void Cluster::SettleLetGo(const Report& worker, bool is_new) {
  if (is_new) ForgetLetGo(worker.name);
  if (worker.kind != MemberKind::kExpert || !worker.status.model) return;
  // Gone, or wanted again by a topology that the worker has applied: what it reports then it keeps.
  std::erase_if(models_[worker.status.model->fingerprint].let_go, [&](const auto& entry) {
    return entry.first.second == worker.name &&
           (!worker.status.holds.contains(entry.first.first) || worker.seen_epoch > entry.second);
  });
}

void Cluster::ForgetLetGo(const std::string& member) {
  for (auto& [fingerprint, model] : models_) {
    std::erase_if(model.let_go, [&](const auto& entry) { return entry.first.second == member; });
  }
}

size_t Cluster::num_let_go() const {
  size_t count = 0;
  for (const auto& [fingerprint, model] : models_) count += model.let_go.size();
  return count;
}

void Cluster::NoteLetGo(Model& model, const ModelTopology& published, placement::Epoch epoch) {
  for (const TopologyWorker& worker : published.workers) {
    for (const ExpertKey& key : members_.at(worker.name).report.status.holds) {
      if (!worker.hold.contains(key))
        model.let_go.insert_or_assign(std::pair{key, worker.name}, epoch);
    }
  }
}

Handover Cluster::HandoverOf(const std::string& name) const {
  const auto found = members_.find(name);
  if (found == members_.end()) return Handover::kNone;
  const Member& member = found->second;
  const Report& report = member.report;
  if (!member.live || report.kind != MemberKind::kExpert ||
      report.status.state != MemberState::kDraining) {
    return Handover::kNone;
  }
  if (!report.status.model) return Handover::kDone;
  const std::string& fingerprint = report.status.model->fingerprint;
  bool any_engine = false;
  for (const auto& [other_name, other] : members_) {
    any_engine |= other.live && other.report.kind == MemberKind::kEngine &&
                  other.report.status.model &&
                  other.report.status.model->fingerprint == fingerprint;
  }
  if (!any_engine) return Handover::kDone;
  const ModelTopology* published = topology_.Find(fingerprint);
  const TopologyWorker* worker = published != nullptr ? published->FindWorker(name) : nullptr;
  if (worker == nullptr || worker->hold.empty()) return Handover::kDone;
  if (!HasTaker(fingerprint)) return Handover::kNoTaker;
  return WithoutRoom(fingerprint, *worker).empty() ? Handover::kMoving : Handover::kNoRoom;
}

void Cluster::TellHandovers() {
  for (auto& [name, member] : members_) {
    const Handover now = HandoverOf(name);
    const Handover before = std::exchange(member.handover_told, now);
    if (now == before) continue;
    if (now == Handover::kDone && before != Handover::kNone) {
      Tell(name, "no engine asks it for experts any more: it may end");
    } else if (now == Handover::kNoTaker) {
      Tell(name, "drains, and there is no other worker to take its experts");
    } else if (now == Handover::kNoRoom) {
      const std::string& fingerprint = member.report.status.model->fingerprint;
      const ExpertKeys without =
          WithoutRoom(fingerprint, *topology_.Find(fingerprint)->FindWorker(name));
      Tell(name,
           absl::StrCat("drains, but ", without.size(), " of its experts fit on no other worker (",
                        placement::DescribeExperts(without),
                        "): it serves them until its drain time ends; add workers or raise "
                        "their --memory"));
    }
  }
}

}  // namespace conclave::controller
