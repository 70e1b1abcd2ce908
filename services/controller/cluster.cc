#include "services/controller/cluster.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"

namespace conclave::controller {

using placement::Epoch;
using placement::ExpertKey;
using placement::ExpertKeys;
using placement::MemberKind;
using placement::MemberState;
using placement::ModelTopology;
using placement::TopologyWorker;

namespace {

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

absl::Status ValidateReport(const Report& report) {
  if (report.name.empty() || report.incarnation.empty() || report.address.empty()) {
    return absl::InvalidArgumentError("a member's report needs name, incarnation and address");
  }
  if (!report.status.model) return absl::OkStatus();
  const placement::ModelIdentity& model = *report.status.model;
  if (model.fingerprint.empty() || model.num_experts <= 0 ||
      !std::is_sorted(model.moe_layers.begin(), model.moe_layers.end())) {
    return absl::InvalidArgumentError(
        absl::StrCat(report.name,
                     ": model identity without fingerprint or experts, or with "
                     "unordered layers"));
  }
  for (const ExpertKey& key : report.status.holds) {
    if (key.expert < 0 || key.expert >= model.num_experts ||
        !std::binary_search(model.moe_layers.begin(), model.moe_layers.end(), key.layer)) {
      return absl::InvalidArgumentError(absl::StrCat(report.name, ": holds layer ", key.layer,
                                                     " expert ", key.expert,
                                                     ", which its model does not have"));
    }
  }
  return absl::OkStatus();
}

// Whether a topology that was computed with the one is right with the other.
bool SameForTopology(const Report& a, const Report& b) {
  return a.kind == b.kind && a.address == b.address && a.host == b.host &&
         a.host_socket == b.host_socket && a.leaving == b.leaving && a.seen_epoch == b.seen_epoch &&
         a.status.state == b.status.state && a.status.model == b.status.model &&
         a.status.holds == b.status.holds;
}

bool ServesModel(const Report& report, MemberKind kind, const std::string& fingerprint) {
  return report.kind == kind && report.status.model &&
         report.status.model->fingerprint == fingerprint;
}

}  // namespace

Cluster::Cluster(const Options& options, uint64_t term, const Clock* clock)
    : options_(options),
      clock_(clock),
      started_at_(clock->Now()),
      ticked_at_(started_at_),
      counted_at_tick_(started_at_),
      term_(term) {
  topology_.cluster_id = options_.cluster_id;
  topology_.epoch = {term_, 0};
}

TimePoint Cluster::Now() const {
  return counted_at_tick_ + std::min<Duration>(clock_->Now() - ticked_at_, options_.longest_step);
}

void Cluster::Tell(const std::string& member, std::string text) {
  events_.push_back({UnixMs(), member, std::move(text)});
  ++num_events_;
  if (events_.size() > options_.max_events) events_.pop_front();
}

void Cluster::MarkReplan(const std::string& fingerprint) {
  Model& model = models_[fingerprint];
  model.replan = true;
  model.changed_at = Now();
}

bool Cluster::IsWanted(const std::string& fingerprint) const {
  bool any_engine = false;
  for (const auto& [name, member] : members_) {
    if (member.report.kind != MemberKind::kEngine || !member.report.status.model) continue;
    if (member.report.status.model->fingerprint == fingerprint) return true;
    any_engine = true;
  }
  return !any_engine;
}

absl::Status Cluster::OnReport(Report report) {
  if (absl::Status valid = ValidateReport(report); !valid.ok()) return valid;
  const auto known = members_.find(report.name);
  if (known != members_.end() && known->second.live && known->second.connected &&
      known->second.report.incarnation != report.incarnation) {
    return absl::AlreadyExistsError(
        absl::StrCat("the name ", report.name, " belongs to process ", known->second.report.pid,
                     " at ", known->second.report.address, "; start this one with another --name"));
  }
  // An epoch that this controller never published is of one before it, whose term nobody kept.
  if (report.highest_term > term_ || report.seen_epoch > topology_.epoch) {
    term_ = std::max(report.highest_term, report.seen_epoch.term) + 1;
    topology_.epoch = {term_, topology_.epoch.number + 1};
    unpublished_ = true;
    Tell("controller",
         absl::StrCat("took term ", term_, ": ", report.name, " has seen term ", term_ - 1));
  }

  const bool is_new = known == members_.end() || !known->second.live ||
                      known->second.report.incarnation != report.incarnation;
  // Later reports name this controller's own term.
  if (is_new && report.highest_term > 0) members_know_topologies_ = true;
  const std::optional<placement::ModelIdentity> model_before =
      is_new ? std::nullopt : known->second.report.status.model;
  const MemberState state_before =
      is_new ? MemberState::kLoading : known->second.report.status.state;
  Member& member = members_[report.name];
  unpublished_ |= is_new || report.last_topology || !SameForTopology(member.report, report);
  if (report.status.model) {
    // The first to report it describes a model: two members that call it differently must not take
    // turns.
    placement::ModelIdentity& identity = models_[report.status.model->fingerprint].identity;
    if (identity.fingerprint.empty()) identity = *report.status.model;
  }
  if (report.last_topology || is_new) AdoptOwners(report);
  member.report = std::move(report);
  member.report.last_topology.reset();
  member.last_report = Now();
  member.live = true;
  member.connected = true;

  const Report& now = member.report;
  const size_t let_go_before = num_let_go();
  SettleLetGo(now, is_new);
  unpublished_ |= num_let_go() != let_go_before;
  if (is_new) {
    Tell(now.name, absl::StrCat("joined as process ", now.pid, " at ", now.address));
  }
  if (now.kind == MemberKind::kExpert && now.status.model && now.status.model != model_before) {
    MarkReplan(now.status.model->fingerprint);
  }
  if (now.status.state != state_before && now.kind == MemberKind::kExpert && now.status.model &&
      (now.status.state == MemberState::kDraining || state_before == MemberState::kDraining)) {
    MarkReplan(now.status.model->fingerprint);
  }
  if (now.status.state != state_before) {
    const std::string& note = now.status.note;
    Tell(now.name, now.status.state == MemberState::kReady ? "ready"
                   : now.status.state == MemberState::kDraining
                       ? "draining"
                       : absl::StrCat("not ready", note.empty() ? "" : ": ", note));
  }
  if (now.leaving) Lose(member, "left");
  Publish();
  return absl::OkStatus();
}

void Cluster::AdoptOwners(const Report& report) {
  // Only what has no owner yet: after a controller restart the first to report decides, and members
  // hold the same topology.
  if (report.last_topology) {
    for (const ModelTopology& model : report.last_topology->models) {
      Model& mine = models_[model.model.fingerprint];
      if (mine.identity.fingerprint.empty()) mine.identity = model.model;
      for (const TopologyWorker& worker : model.workers) {
        for (const ExpertKey& key : worker.serve) mine.owners.emplace(key, worker.name);
      }
    }
  }
  if (report.kind == MemberKind::kExpert && report.status.model) {
    Model& mine = models_[report.status.model->fingerprint];
    for (const ExpertKey& key : report.status.holds) mine.owners.emplace(key, report.name);
  }
}

void Cluster::OnDisconnected(const std::string& name, const std::string& incarnation) {
  const auto it = members_.find(name);
  if (it == members_.end() || it->second.report.incarnation != incarnation) return;
  it->second.connected = false;
}

void Cluster::Lose(Member& member, const std::string& why) {
  member.live = false;
  member.connected = false;
  unpublished_ = true;
  const Report& report = member.report;
  const size_t owned = NumOwned(report);
  const char* what = report.leaving ? " experts are without a worker" : " experts wait for it";
  Tell(report.name, absl::StrCat(why, owned == 0 ? "" : absl::StrCat("; ", owned, what)));
  // Nobody waits for one that said that it goes.
  if (report.leaving && owned > 0) MarkReplan(report.status.model->fingerprint);
}

void Cluster::Tick() {
  const TimePoint clock_now = clock_->Now();
  counted_at_tick_ += std::min<Duration>(clock_now - ticked_at_, options_.longest_step);
  ticked_at_ = clock_now;
  const TimePoint now = counted_at_tick_;
  for (auto it = members_.begin(); it != members_.end();) {
    Member& member = it->second;
    if (member.live && now - member.last_report > options_.lease) {
      Lose(member, "lost: its lease ran out");
      ++lease_expirations_[member.report.kind];
    }
    if (!member.live && now - member.last_report > options_.remember) {
      ForgetLetGo(it->first);
      it = members_.erase(it);
      unpublished_ = true;
    } else {
      ++it;
    }
  }
  PlanDueModels();
  Publish();
}

void Cluster::PlanDueModels() {
  const TimePoint now = Now();
  const bool settling = members_know_topologies_ && now - started_at_ < options_.lease;
  for (auto& [fingerprint, model] : models_) {
    if (model.identity.fingerprint.empty() || !IsWanted(fingerprint)) continue;
    std::vector<placement::PlannerWorker> workers;
    std::set<std::string> names;
    bool leaving = false;
    for (const auto& [name, member] : members_) {
      if (!ServesModel(member.report, MemberKind::kExpert, fingerprint)) continue;
      if (KeepsItsPlace(member, fingerprint)) {
        workers.push_back({name, member.report.status.capacity_bytes});
        names.insert(name);
      } else {
        leaving |= member.live || member.report.leaving;
      }
    }
    // What workers that leave own stays theirs until somebody can take it.
    if (leaving && !HasTaker(fingerprint)) continue;
    for (const auto& [key, owner] : model.owners) {
      if (names.contains(owner)) continue;
      if (!members_.contains(owner) && now - started_at_ < options_.reassign_after) {
        // Known from a topology before this controller's time: its owner may still report.
        workers.push_back({owner, 0});
        names.insert(owner);
      } else {
        model.replan = true;
      }
    }
    std::sort(workers.begin(), workers.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    if (!model.replan || settling || workers.empty()) continue;
    if (now - model.changed_at < options_.quiet) continue;
    model.replan = false;
    placement::Plan plan = placement::PlanPlacement(model.identity, workers, model.owners);
    if (plan.owners != model.owners) {
      unpublished_ = true;
      int64_t moved = 0;
      for (const auto& [key, owner] : plan.owners) {
        const auto before = model.owners.find(key);
        if (before != model.owners.end() && before->second != owner) ++moved;
      }
      Tell("controller",
           absl::StrCat("placed ", plan.owners.size(), " experts of ", model.identity.served_name,
                        " on ", workers.size(), workers.size() == 1 ? " worker" : " workers",
                        moved > 0 ? absl::StrCat(", ", moved, " moved") : ""));
    }
    if (!plan.unplaced.empty() && plan.unplaced != model.unplaced_told) {
      Tell("controller",
           absl::StrCat(plan.unplaced.size(), " experts of ", model.identity.served_name,
                        " fit on no worker (", placement::DescribeExperts(plan.unplaced),
                        "): add workers or raise their --memory"));
    }
    model.unplaced_told = std::move(plan.unplaced);
    model.owners = std::move(plan.owners);
  }
}

ModelTopology Cluster::TopologyOf(Model& model) const {
  ModelTopology topology;
  topology.model = model.identity;
  std::map<std::string, ExpertKeys> owned;
  for (const auto& [key, owner] : model.owners) owned[owner].insert(key);

  std::map<std::string, const Member*> workers;
  for (const auto& [name, member] : members_) {
    if (!ServesModel(member.report, MemberKind::kExpert, model.identity.fingerprint)) continue;
    if (member.live || owned.contains(name)) workers[name] = &member;
  }
  std::map<std::string, ExpertKeys> kept;
  for (const auto& [name, member] : workers) kept[name] = KeptBy(model, *member);
  // Each expert is served by its owner once loaded there; until then by whoever still holds it.
  std::map<ExpertKey, std::string> server;
  for (const bool owners_turn : {true, false}) {
    for (const auto& [name, member] : workers) {
      for (const ExpertKey& key : kept[name]) {
        const auto owner = model.owners.find(key);
        const bool owns = owner != model.owners.end() && owner->second == name;
        if (owns == owners_turn && (member->live || owns)) server.emplace(key, name);
      }
    }
  }
  for (const auto& [name, member] : workers) {
    TopologyWorker& worker = topology.workers.emplace_back();
    worker.name = name;
    worker.address = member->report.address;
    worker.host = member->report.host;
    worker.host_socket = member->report.host_socket;
    worker.live = member->live;
    worker.hold = owned[name];
    for (const ExpertKey& key : kept[name]) {
      if (server[key] == name) {
        worker.serve.insert(key);
        worker.hold.insert(key);
      } else if (model.retained.contains({key, name})) {
        worker.hold.insert(key);
      }
    }
  }
  return topology;
}

bool Cluster::AllEnginesHaveSeen(const std::string& fingerprint, Epoch epoch) const {
  for (const auto& [name, member] : members_) {
    if (member.live && ServesModel(member.report, MemberKind::kEngine, fingerprint) &&
        member.report.seen_epoch < epoch) {
      return false;
    }
  }
  return true;
}

void Cluster::Publish() {
  // A large model has ten thousand experts, and most reports say nothing new.
  if (std::exchange(unpublished_, false)) ComputeTopology();
  TellHandovers();
  FindIdle();
}

void Cluster::ComputeTopology() {
  std::vector<ModelTopology> models;
  const Epoch next{term_, topology_.epoch.number + 1};
  for (auto& [fingerprint, model] : models_) {
    // A model that no engine serves is in no topology: nobody misses its experts.
    if (model.identity.fingerprint.empty() || !IsWanted(fingerprint)) continue;
    std::erase_if(model.retained, [&](const auto& entry) {
      return entry.second <= topology_.epoch && AllEnginesHaveSeen(fingerprint, entry.second);
    });
    // What a worker served in the published topology and does not serve in the next stays loaded
    // for now.
    ModelTopology candidate = TopologyOf(model);
    if (const ModelTopology* published = topology_.Find(fingerprint); published != nullptr) {
      for (const TopologyWorker& before : published->workers) {
        const TopologyWorker* after = candidate.FindWorker(before.name);
        if (after == nullptr) continue;
        for (const ExpertKey& key : before.serve) {
          if (!after->serve.contains(key))
            model.retained.insert_or_assign(std::pair{key, before.name}, next);
        }
      }
      candidate = TopologyOf(model);
    }
    if (!candidate.workers.empty()) models.push_back(std::move(candidate));
  }
  if (models != topology_.models || topology_.epoch.term != term_) {
    topology_.epoch = next;
    topology_.models = std::move(models);
    for (const ModelTopology& model : topology_.models)
      NoteLetGo(models_[model.model.fingerprint], model, next);
    unpublished_ = true;  // more may follow from it
  }
}

placement::ClusterView Cluster::view() const {
  placement::ClusterView view;
  for (const auto& [name, member] : members_) {
    const Report& report = member.report;
    if (!member.live || report.kind != MemberKind::kEngine || !report.status.model) continue;
    view.engines.push_back({name, report.address, report.status.model->fingerprint,
                            report.status.model->served_name, report.status.state,
                            report.status.engine});
  }
  return view;
}

size_t Cluster::num_missing_experts() const {
  size_t missing = 0;
  for (const ModelTopology& model : topology_.models) missing += model.Missing().size();
  return missing;
}

int64_t Cluster::num_lease_expirations(placement::MemberKind kind) const {
  const auto found = lease_expirations_.find(kind);
  return found == lease_expirations_.end() ? 0 : found->second;
}

std::vector<MemberRow> Cluster::members() const {
  std::vector<MemberRow> rows;
  for (const auto& [name, member] : members_) {
    rows.push_back({member.report, member.live,
                    member.live ? options_.lease - (Now() - member.last_report) : Duration(0)});
  }
  return rows;
}

std::vector<ClusterEvent> Cluster::events(size_t last) const {
  const size_t count = last == 0 ? events_.size() : std::min(last, events_.size());
  return {events_.end() - static_cast<ptrdiff_t>(count), events_.end()};
}

}  // namespace conclave::controller
