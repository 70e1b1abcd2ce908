// Workers whose checkpoint no engine serves: they get no experts, and hear why.
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/controller/cluster.h"

namespace conclave::controller {

using placement::MemberKind;

namespace {

// Enough of a fingerprint to tell two apart, and the numerics class, in which they may differ
// alone.
std::string Describe(const placement::ModelIdentity& model) {
  return absl::StrCat("fingerprint ", model.fingerprint.substr(0, 12), " (", model.numerics_class,
                      ")");
}

}  // namespace

const std::string& Cluster::WhyIdle(const std::string& name) const {
  static const std::string kNothing;
  const auto found = members_.find(name);
  return found == members_.end() ? kNothing : found->second.why_idle;
}

void Cluster::FindIdle() {
  std::set<std::string> wanted;  // as IsWanted has it
  const Report* engine = nullptr;
  for (const auto& [name, member] : members_) {
    if (member.report.kind != MemberKind::kEngine || !member.report.status.model) continue;
    wanted.insert(member.report.status.model->fingerprint);
    if (member.live && engine == nullptr) engine = &member.report;
  }
  for (auto& [name, member] : members_) {
    const auto& model = member.report.status.model;
    std::string why;
    if (engine != nullptr && member.live && member.report.kind == MemberKind::kExpert && model &&
        !wanted.contains(model->fingerprint)) {
      why = absl::StrCat("serves ", Describe(*model), ", but ", engine->name, " serves ",
                         Describe(*engine->status.model),
                         ": it gets no work until an engine serves the same checkpoint and "
                         "numerics");
    }
    if (!why.empty() && member.why_idle.empty()) Tell(name, why);
    member.why_idle = std::move(why);
  }
}

}  // namespace conclave::controller
