// `conclave ps`: the processes and members, what they hold, and how they stand.
#include "services/cli/ps.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/cli/cluster_state.h"
#include "services/cli/command.h"
#include "services/cli/controller_client.h"
#include "services/cli/hint.h"
#include "services/cli/table.h"
#include "shared/base/address.h"
#include "shared/base/byte_size.h"
#include "shared/rpc/cluster_id.h"

namespace conclave::cli {
namespace {

constexpr std::chrono::milliseconds kControllerTimeout{2000};
// "waiting for a placement"; a longer reason is told below the table.
constexpr size_t kWidestState = 24;

// Resident memory of a process of this machine; 0 when it cannot be read.
int64_t ResidentBytes(int64_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/status"));
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string key;
    int64_t kib = 0;
    words >> key >> kib;
    if (key == "VmRSS:") return kib * 1024;
  }
  return 0;
}

bool IsThisHost(const std::string& host) {
  char name[256] = "";
  return gethostname(name, sizeof(name) - 1) == 0 && host == name;
}

std::string Port(const std::string& address) {
  const auto parsed = ParseAddress(address);
  return parsed.ok() ? absl::StrCat(parsed->port) : "-";
}

std::string Holds(const MemberInfo& member) {
  if (member.kind == "gateway") return member.served_name;
  if (member.kind == "engine") {
    if (member.served_name.empty()) return "";
    return absl::StrCat(member.served_name, " ", member.numerics_class,
                        member.context_tokens > 0
                            ? absl::StrCat(", context ", member.context_tokens)
                            : std::string());
  }
  const int64_t all = member.num_moe_layers * member.num_experts;
  return all == 0 ? "" : absl::StrCat(member.holds.size(), " of ", all, " experts");
}

std::string Load(const MemberInfo& member) {
  char text[96];
  if (member.kind == "gateway") return Count(member.running, "request");
  if (member.kind == "engine") {
    std::snprintf(text, sizeof(text), "%lld running, %lld waiting, KV %.0f %%",
                  static_cast<long long>(member.running), static_cast<long long>(member.waiting),
                  member.kv_used_ratio * 100);
  } else {
    std::snprintf(text, sizeof(text), "%.0f rows/s", member.rows_per_second);
  }
  return text;
}

class PsCommand final : public Command {
 public:
  const char* name() const override { return "ps"; }
  const char* summary() const override { return "the processes, what they hold, how they stand"; }
  void AddFlags(CLI::App& app) override { app.add_flag("--json", json_, "print one JSON object"); }
  int Run(const Context& context) override;

 private:
  bool json_ = false;
};

int PsCommand::Run(const Context& context) {
  const auto running = ReadRunningCluster(context.state_dir);
  if (!running.ok() && !absl::IsFailedPrecondition(running.status())) return Fail(running.status());
  const auto controller = FindController(context);
  if (!controller.ok()) return Fail(controller.status());
  const auto members = ListMembers(*controller, context.options.common, kControllerTimeout);
  if (!running.ok() && !members.ok()) return Fail(members.status());

  const std::vector<ProcessRow> rows =
      JoinProcesses(running.ok() ? running->processes : std::vector<ProcessState>(),
                    members.ok() ? *members : ClusterMembers(), members.ok());
  const bool refused = absl::IsUnauthenticated(members.status());
  std::string note =
      members.ok() ? ReplicaNote(WithoutEnded(*members, running.ok() ? running->processes
                                                                     : std::vector<ProcessState>()),
                                 !running.ok() || running->supervised)
      : refused    ? "The states are unknown: this call shows another secret than the cluster's."
      : rpc::IsOtherCluster(members.status())
          ? absl::StrCat("The controller at ", *controller,
                         " is another cluster's: it took the port while this one's was down, and "
                         "serving goes on with the last placement.")
          : absl::StrCat("The controller at ", *controller,
                         " does not answer: serving goes on with the last placement.");
  if (running.ok() && !running->supervised) {
    absl::StrAppend(&note, "\nThe supervisor (", running->supervisor_pid,
                    ") is dead: these processes go on, and none is started again; ",
                    Hint("down", context.state_dir), " ends them.");
  }
  if (json_) {
    nlohmann::json list = nlohmann::json::array();
    for (const ProcessRow& row : rows) {
      list.push_back({{"name", row.name},
                      {"kind", row.kind},
                      {"pid", row.pid},
                      {"address", row.address},
                      {"ops_address", row.ops_address},
                      {"state", row.state},
                      {"holds", row.holds},
                      {"memory_bytes", row.memory_bytes},
                      {"load", row.load},
                      {"restarts", row.restarts},
                      {"model", row.model},
                      {"log", row.log},
                      {"fingerprint", row.fingerprint}});
    }
    const nlohmann::json object = {
        {"phase", running.ok() ? running->phase : "elsewhere"},
        {"model", running.ok() ? running->model : ""},
        {"http_address", running.ok() ? running->http_address : ""},
        {"grpc_address", running.ok() ? running->grpc_address : ""},
        {"controller_address", *controller},
        {"supervisor_pid", running.ok() && running->supervised ? running->supervisor_pid : 0},
        {"state_dir", context.state_dir},
        {"controller_answers", members.ok()},
        {"epoch", members.ok() ? absl::StrCat(members->term, ".", members->number) : ""},
        {"processes", list},
        {"note", note}};
    std::printf("%s\n",
                object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return refused ? Fail(members.status()) : kExitOk;
  }
  std::string reasons;  // below the table: why a member is not ready
  std::vector<std::vector<std::string>> table = {
      {"NAME", "PID", "PORT", "STATE", "HOLDS", "MEMORY", "LOAD"}};
  for (const ProcessRow& row : rows) {
    const bool long_state = !row.short_state.empty();
    if (long_state) absl::StrAppend(&reasons, row.name, ": ", row.state, "\n");
    table.push_back({row.name, row.pid == 0 ? "-" : absl::StrCat(row.pid), Port(row.address),
                     long_state ? row.short_state : row.state, row.holds.empty() ? "-" : row.holds,
                     row.memory_bytes == 0 ? "-" : FormatBytes(row.memory_bytes), row.load});
  }
  std::printf("%s%s%s\n", FormatTable(table).c_str(), reasons.c_str(), note.c_str());
  return refused ? Fail(members.status()) : kExitOk;
}

}  // namespace

std::vector<ProcessRow> JoinProcesses(const std::vector<ProcessState>& processes,
                                      const ClusterMembers& members, bool controller_answers) {
  std::vector<ProcessRow> rows;
  const auto fill = [](const MemberInfo& member, ProcessRow* row) {
    const bool starting = member.state == "loading" || member.state == "not ready";
    row->state = starting && !member.note.empty() ? member.note : member.state;
    if (row->state.size() > kWidestState) row->short_state = member.state;
    row->holds = Holds(member);
    row->load = Load(member);
    row->model = member.served_name;
    row->fingerprint = member.fingerprint;
  };
  int64_t live = 0;
  for (const MemberInfo& member : members.members) live += member.live ? 1 : 0;
  for (const ProcessState& process : processes) {
    ProcessRow row{.name = process.name,
                   .kind = process.kind,
                   .address = process.address,
                   .ops_address = process.ops_address,
                   .log = process.log,
                   .pid = process.pid,
                   .restarts = process.restarts};
    row.state = controller_answers ? "starting" : "unknown";
    if (process.kind == "controller" && controller_answers) {
      row.state = "ready";
      row.holds = absl::StrCat("epoch ", members.term, ".", members.number);
      row.load = Count(live, "member");
    }
    for (const MemberInfo& member : members.members) {
      if (member.name == process.name && (member.pid == process.pid || !member.live)) {
        fill(member, &row);
      }
    }
    if (process.pid == 0) {
      row.state = process.last_end.empty() ? "ended" : process.last_end;
      const int64_t left_ms = process.restart_at_unix_ms - UnixMs();
      if (left_ms > 0) {
        row.state =
            absl::StrCat("restarts in ", FormatSeconds(static_cast<double>(left_ms) / 1000));
      }
      row.load.clear();
    } else {
      row.memory_bytes = ResidentBytes(process.pid);
    }
    rows.push_back(std::move(row));
  }
  for (const MemberInfo& member : members.members) {
    const bool shown =
        std::any_of(processes.begin(), processes.end(),
                    [&](const ProcessState& process) { return process.name == member.name; });
    if (shown) continue;
    ProcessRow row{.name = member.name,
                   .kind = member.kind,
                   .address = member.address,
                   .ops_address = member.ops_address,
                   .log = "",
                   .pid = member.pid,
                   .memory_bytes =
                       IsThisHost(member.host) ? ResidentBytes(member.pid) : member.resident_bytes};
    fill(member, &row);
    rows.push_back(std::move(row));
  }
  // As people think of them: from the request's end to the experts.
  const std::map<std::string, int> order = {
      {"controller", 0}, {"gateway", 1}, {"engine", 2}, {"expert", 3}};
  std::stable_sort(rows.begin(), rows.end(), [&](const ProcessRow& a, const ProcessRow& b) {
    const auto rank = [&](const ProcessRow& row) {
      const auto found = order.find(row.kind);
      return found == order.end() ? 4 : found->second;
    };
    return rank(a) < rank(b);
  });
  // A gateway holds no model itself; it serves those of the engines.
  std::set<std::string> served;
  for (const MemberInfo& member : members.members) {
    if (member.kind == "engine" && member.live && !member.served_name.empty()) {
      served.insert(member.served_name);
    }
  }
  for (ProcessRow& row : rows) {
    if (row.kind != "gateway" || !row.holds.empty()) continue;
    for (const std::string& name : served)
      absl::StrAppend(&row.holds, row.holds.empty() ? "" : ", ", name);
  }
  return rows;
}

ClusterMembers WithoutEnded(ClusterMembers members, const std::vector<ProcessState>& processes) {
  for (MemberInfo& member : members.members) {
    for (const ProcessState& process : processes) {
      if (member.name == process.name && member.pid != process.pid) member.live = false;
    }
  }
  return members;
}

std::string ReplicaNote(const ClusterMembers& members, bool supervised) {
  struct Model {
    std::string name;
    int64_t experts = 0;  // over all layers
    bool has_engine = false;
    bool has_worker = false;
    std::map<std::pair<int32_t, int32_t>, int> replicas;
  };
  std::map<std::string, Model> models;  // by fingerprint
  bool any_engine = false;
  for (const MemberInfo& member : members.members) {
    if (member.fingerprint.empty()) continue;
    Model& model = models[member.fingerprint];
    model.name = member.served_name;
    model.experts = std::max(model.experts, member.num_moe_layers * member.num_experts);
    if (member.kind == "engine") any_engine = model.has_engine = true;
    if (member.kind != "expert") continue;
    model.has_worker = true;
    if (!member.live) continue;
    for (const auto& key : member.holds) ++model.replicas[key];
  }
  if (models.empty()) return "No engine or worker has opened a model yet.";
  // A worker of a model that no engine serves has no work, and nobody misses it.
  if (any_engine) std::erase_if(models, [](const auto& entry) { return !entry.second.has_engine; });
  if (std::none_of(models.begin(), models.end(),
                   [](const auto& entry) { return entry.second.has_worker; }))
    return "Experts run inside the engines; there are no workers.";
  int least = 1 << 30;
  for (const auto& [fingerprint, model] : models) {
    const int64_t held = static_cast<int64_t>(model.replicas.size());
    if (held < model.experts) {
      return absl::StrCat(model.experts - held, " of ", model.experts, " experts of ", model.name,
                          " have no live worker: requests that need them fail.");
    }
    for (const auto& [key, count] : model.replicas) least = std::min(least, count);
  }
  if (least <= 1) {
    return absl::StrCat("1 replica: a worker's death fails requests until ",
                        supervised ? "it restarts" : "others have taken its experts");
  }
  return absl::StrCat("Every expert has ", least, " live replicas: any one worker may die.");
}

std::unique_ptr<Command> MakePsCommand() { return std::make_unique<PsCommand>(); }

}  // namespace conclave::cli
