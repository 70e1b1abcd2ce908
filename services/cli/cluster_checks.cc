#include "services/cli/cluster_checks.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cli/cluster_state.h"
#include "services/cli/gateway_checks.h"
#include "services/cli/table.h"
#include "shared/base/status_macros.h"
#include "shared/tls/certificate_files.h"

namespace conclave::cli {
namespace {

constexpr std::chrono::seconds kPatience{5};
constexpr std::chrono::seconds kReportsCome{3};
constexpr std::chrono::milliseconds kAskAgain{200};
constexpr int64_t kHour = 3600, kDay = 24 * kHour;
constexpr int64_t kWarnDays = 14;

std::string Short(const std::string& fingerprint) { return fingerprint.substr(0, 12); }

Check CheckStates(const ClusterMembers& members) {
  std::map<std::string, int> kinds;
  std::vector<std::string> troubled;
  for (const MemberInfo& member : members.members) {
    if (member.state == "left") continue;
    if (member.state == "ready" || member.state == "draining") {
      ++kinds[member.kind];
    } else {
      troubled.push_back(absl::StrCat(member.name, " is ", member.state,
                                      member.note.empty() ? "" : ": ", member.note));
    }
  }
  Check check{.name = "members"};
  for (const char* kind : {"gateway", "engine", "expert"}) {
    absl::StrAppend(&check.found, check.found.empty() ? "" : ", ", Count(kinds[kind], kind));
  }
  absl::StrAppend(&check.found, " ready, epoch ", members.term, ".", members.number);
  if (kinds["gateway"] == 0 || kinds["engine"] == 0) {
    check.verdict = Verdict::kFail;
    check.remedy = "a cluster needs a gateway and an engine: start them, and see their logs";
  } else if (!troubled.empty()) {
    check.verdict = Verdict::kWarn;
    check.remedy = "see the logs of those that are not ready, and conclave events";
  }
  if (!troubled.empty()) absl::StrAppend(&check.found, "; ", absl::StrJoin(troubled, "; "));
  return check;
}

// One value for all, or which members have which.
Check CheckEqual(const std::string& name, const std::map<std::string, std::set<std::string>>& who,
                 const std::string& remedy) {
  if (who.size() <= 1) {
    return {.name = name, .found = who.empty() ? "none yet" : who.begin()->first};
  }
  std::vector<std::string> parts;
  for (const auto& [value, names] : who) {
    parts.push_back(absl::StrCat(value, " (", absl::StrJoin(names, ", "), ")"));
  }
  return {.name = name,
          .verdict = Verdict::kWarn,
          .found = absl::StrJoin(parts, ", "),
          .remedy = remedy};
}

struct ModelParts {
  std::string name;
  bool engine = false, ready_engine = false, worker = false;
  int64_t num_experts = 0;                       // over all layers
  std::set<std::pair<int32_t, int32_t>> served;  // by live workers
};

// Appends what is wrong with one model, or that all is well.
void CheckModelParts(const ModelParts& model, Check& check) {
  const auto fail = [&](const std::string& found, const std::string& remedy) {
    absl::StrAppend(&check.found, found);
    check.verdict = Verdict::kFail;
    check.remedy = remedy;
  };
  absl::StrAppend(&check.found, check.found.empty() ? "" : "; ", model.name, ": ");
  if (!model.engine) return fail("workers, but no engine", "start an engine with this model");
  if (!model.ready_engine) absl::StrAppend(&check.found, "no engine is ready, ");
  if (!model.worker) {
    absl::StrAppend(&check.found, "no live worker");
    // Engines may hold the experts themselves; their answer below says so.
    if (check.verdict == Verdict::kOk) {
      check.verdict = Verdict::kWarn;
      check.remedy = "start workers, unless engine.experts is local";
    }
    return;
  }
  const auto served = static_cast<int64_t>(model.served.size());
  const std::string found =
      absl::StrCat(served, " of ", model.num_experts, " held by live workers");
  if (served < model.num_experts) {
    return fail(found, "conclave events says why; add workers or raise their --memory");
  }
  if (!model.ready_engine) return fail(found, "wait, or see the engines' logs");
  absl::StrAppend(&check.found, found);
}

// Every model has a ready engine, and every expert of it a live worker.
Check CheckExperts(const ClusterMembers& members) {
  std::map<std::string, ModelParts> models;  // by fingerprint
  for (const MemberInfo& member : members.members) {
    if (!member.live || member.fingerprint.empty()) continue;
    ModelParts& model = models[member.fingerprint];
    if (member.kind == "engine") {
      model.engine = true;
      model.ready_engine |= member.state == "ready";
    } else if (member.kind == "expert") {
      model.worker = true;
      model.served.insert(member.holds.begin(), member.holds.end());
    } else {
      continue;
    }
    model.name = member.served_name;
    model.num_experts = member.num_moe_layers * member.num_experts;
  }
  Check check{.name = "experts"};
  for (const auto& [fingerprint, model] : models) CheckModelParts(model, check);
  if (models.empty()) {
    check = {.name = "experts",
             .verdict = Verdict::kFail,
             .found = "no live engine serves a model",
             .remedy = "start an engine, and see its log"};
  }
  return check;
}

bool AllGood(const std::vector<Check>& checks) {
  return std::all_of(checks.begin(), checks.end(),
                     [](const Check& check) { return check.verdict == Verdict::kOk; });
}

// Asks again for a while before something is called wrong: reports of members are up to a second
// old.
absl::StatusOr<std::vector<Check>> CheckController(const std::string& address,
                                                   const CommonOptions& common) {
  const auto until = std::chrono::steady_clock::now() + kReportsCome;
  while (true) {
    ASSIGN_OR_RETURN(const ClusterMembers members, ListMembers(address, common, kPatience));
    std::vector<Check> checks = CheckMembers(members);
    if (AllGood(checks) || std::chrono::steady_clock::now() >= until) return checks;
    std::this_thread::sleep_for(kAskAgain);
  }
}

}  // namespace

Check SkippedCheck(const std::string& name, const std::string& why) {
  return {.name = name, .found = "skipped: " + why};
}

Check CheckExpiry(const std::string& name, const std::string& what, int64_t expires_unix_s,
                  int64_t now_unix_s) {
  const int64_t left = expires_unix_s - now_unix_s;
  const std::string time = left < 0          ? "expired"
                           : left < 2 * kDay ? Count(left / kHour, "hour") + " left"
                                             : Count(left / kDay, "day") + " left";
  Check check{.name = name, .found = absl::StrCat(what, ": ", time)};
  if (left < kWarnDays * kDay) {
    check.verdict = left < kHour ? Verdict::kFail : Verdict::kWarn;
    check.remedy = "renew it: the processes take it from its file without a restart";
  }
  return check;
}

std::vector<Check> CheckMembers(const ClusterMembers& members) {
  std::map<std::string, std::set<std::string>> versions, fingerprints;
  for (const MemberInfo& member : members.members) {
    if (!member.live) continue;
    versions[member.version].insert(member.name);
    if (!member.fingerprint.empty()) {
      fingerprints[absl::StrCat(member.served_name, " ", Short(member.fingerprint))].insert(
          member.name);
    }
  }
  return {CheckStates(members),
          CheckEqual("versions", versions, "a rollout is under way, or some were left out of one"),
          CheckEqual("models", fingerprints,
                     "members of one model need the same checkpoint and numerics; several models "
                     "are told apart by served_name"),
          CheckExperts(members)};
}

ClusterTargets FindTargets(const Context& context, const ClusterTargets& named) {
  ClusterTargets targets = named;
  const Settings::Row* controller = nullptr;
  for (const Settings::Row& row : context.rows) {
    if (row.key == "controller_address" && row.source != "default") controller = &row;
  }
  if (targets.gateway.empty() && targets.gateway_http.empty()) {
    if (const auto running = ReadRunningCluster(context.state_dir); running.ok()) {
      return {running->grpc_address, running->http_address, running->controller_address};
    }
  }
  if (controller != nullptr) targets.controller = controller->value;
  return targets;
}

std::vector<Check> CheckCluster(const Context& context, const ClusterTargets& targets) {
  const CommonOptions& common = context.options.common;
  std::vector<Check> checks;
  if (targets.controller.empty()) {
    checks.push_back(SkippedCheck("controller", "none is named (--controller-address)"));
  } else if (const auto members = CheckController(targets.controller, common); !members.ok()) {
    checks.push_back(
        FailedCheck("controller", members.status(),
                    absl::StrCat("see the log of the controller at ", targets.controller)));
  } else {
    checks.push_back({.name = "controller", .found = targets.controller + " answers"});
    checks.insert(checks.end(), members->begin(), members->end());
  }
  if (const tls::CertificateFiles& files = common.tls; files.configured()) {
    const auto read = tls::ReadCertificates(files);
    checks.push_back(
        !read.ok() ? FailedCheck("certificate", read.status(), "renew it")
        : read->expires_unix_s == 0
            ? SkippedCheck("certificate", "tls_cert_file names none")
            : CheckExpiry("certificate", files.cert, read->expires_unix_s, UnixMs() / 1000));
  }
  for (Check& check : CheckGateway(context, targets)) checks.push_back(std::move(check));
  return checks;
}

}  // namespace conclave::cli
