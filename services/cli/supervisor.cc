#include "services/cli/supervisor.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cli/controller_client.h"
#include "services/cli/hint.h"
#include "services/cli/port_owner.h"
#include "services/cli/table.h"
#include "shared/base/address.h"
#include "shared/base/drain_report.h"
#include "shared/base/http_get.h"
#include "shared/base/status_macros.h"
#include "shared/placement/topology_file.h"

namespace conclave::cli {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(20);
constexpr Duration kFolderPeriod = std::chrono::seconds(1);
constexpr Duration kProgressPeriod = std::chrono::milliseconds(700);
constexpr std::chrono::milliseconds kReadyTimeout{1000};
// How long "Ready" waits for members whose last report is older than the gateway's readiness.
constexpr Duration kReportGrace = std::chrono::seconds(5);
// After its drain time a process still has to close files and leave the cluster.
constexpr Duration kExitGrace = std::chrono::seconds(5);

// A fresh log for each life of the cluster; the one before is kept beside it.
void RotateLog(const std::string& path) {
  std::error_code error;
  if (std::filesystem::exists(path, error)) std::filesystem::rename(path, path + ".1", error);
}

}  // namespace

Supervisor::Supervisor(Options options, StopSignals& signals)
    : options_(std::move(options)), signals_(signals) {
  state_.cluster_id = options_.plan.cluster_id;
  state_.model = options_.model;
  state_.supervisor_pid = getpid();
  state_.supervisor_start_ticks = StartTicks(getpid());
  state_.http_address = options_.plan.http_address;
  state_.grpc_address = options_.plan.grpc_address;
  state_.controller_address = options_.plan.controller_address;
  state_.cluster_secret_file = options_.plan.cluster_secret_file;
  state_.tls = options_.plan.tls;
  state_.tls_server_name = options_.plan.tls_server_name;
  state_.api_tls = options_.plan.api_tls;
  state_.drain_seconds = options_.common.drain_seconds;
  for (const PlannedProcess& plan : options_.plan.processes) {
    Child child;
    child.plan = plan;
    child.state.name = plan.name;
    child.state.kind = plan.kind;
    child.state.address = plan.address;
    child.state.ops_address = plan.ops_address;
    child.state.log = absl::StrCat(options_.state_dir, "/logs/", plan.name, ".log");
    children_.push_back(std::move(child));
  }
}

Supervisor::~Supervisor() {
  for (const Child& child : children_) {
    if (child.state.pid > 0) kill(static_cast<pid_t>(child.state.pid), SIGKILL);
  }
}

void Supervisor::Tell(const std::string& member, const std::string& text, bool death) {
  const Event event{UnixMs(), member, text, death};
  // A full disk must not end the supervision.
  (void)AppendEvent(options_.state_dir, event);
  if (options_.on_event) options_.on_event(event);
}

void Supervisor::Record(const std::string& member, const std::string& text) {
  if (!start_failed_) return Tell(member, text);
  (void)AppendEvent(options_.state_dir, {UnixMs(), member, text});
}

void Supervisor::Save(const std::string& phase) {
  state_.phase = phase;
  state_.processes.clear();
  for (const Child& child : children_) state_.processes.push_back(child.state);
  if (const absl::Status status = WriteClusterState(options_.state_dir, state_); !status.ok()) {
    Tell("supervisor", std::string(status.message()));
  }
}

absl::Status Supervisor::StartOne(Child& child) {
  ASSIGN_OR_RETURN(const pid_t pid,
                   StartChild({.program = options_.programs_dir + "/" + child.plan.program,
                               .flags = child.plan.flags,
                               .log = child.state.log}));
  child.state.pid = pid;
  child.state.start_ticks = StartTicks(pid);
  child.state.restart_at_unix_ms = 0;
  return absl::OkStatus();
}

void Supervisor::Reap(const std::function<void(Child&, const ChildEnd&)>& on_end) {
  for (Child& child : children_) {
    if (child.state.pid == 0) continue;
    const std::optional<ChildEnd> end = PollChild(static_cast<pid_t>(child.state.pid));
    if (!end) continue;
    child.state.last_end = end->ToString();
    on_end(child, *end);
    child.state.pid = 0;
    child.state.start_ticks = 0;
  }
}

std::string Supervisor::LastWords(const Child& child) const {
  std::string line = LastError(child.state.log);
  if (line.empty()) {
    const absl::Status room = CheckRoom(options_.state_dir);
    return room.ok() ? "its log does not say why" : std::string(room.message());
  }
  // "conclave-engine: error: ...": who it was is said already.
  const std::string prefix = child.plan.program + ": error: ";
  return line.starts_with(prefix) ? line.substr(prefix.size()) : line;
}

std::string Supervisor::PortTaken(const Child& child) const {
  std::vector<std::string> addresses = {child.plan.address, child.plan.ops_address};
  if (child.plan.kind == "gateway") addresses.push_back(options_.plan.grpc_address);
  for (const std::string& text : addresses) {
    const auto address = ParseAddress(text);
    const std::string owner = address.ok() ? PortOwner(address->port) : "";
    if (owner.empty()) continue;
    return absl::StrCat(" (port ", address->port, " is held by ", owner, "; others are taken by ",
                        Hint("up --auto-ports", options_.state_dir), ")");
  }
  return "";
}

std::string Supervisor::StartingLine() {
  CommonOptions common = options_.common;
  common.cluster_id = options_.plan.cluster_id;
  const auto members =
      ListMembers(options_.plan.controller_address, common, std::chrono::milliseconds(500));
  std::vector<std::string> parts;
  for (const Child& child : children_) {
    if (child.plan.kind == "controller" && members.ok()) continue;
    std::string doing = "starting";
    if (members.ok()) {
      for (const MemberInfo& member : members->members) {
        if (member.name != child.plan.name) continue;
        doing = member.note.empty() ? member.state : member.note;
        if (member.state == "ready") doing.clear();
      }
    }
    // The gateway waits for all others: it is told of when it is the last.
    if (child.plan.kind == "gateway" && !parts.empty()) continue;
    if (!doing.empty()) parts.push_back(absl::StrCat(child.plan.name, " ", doing));
  }
  return absl::StrJoin(parts, ", ");
}

void Supervisor::ForgetOtherWorkers() {
  std::set<std::string> before, now;
  if (const auto state = ReadClusterState(options_.state_dir); state.ok()) {
    for (const ProcessState& process : state->processes) {
      if (process.kind == "expert") before.insert(process.name);
    }
  }
  for (const Child& child : children_) {
    if (child.plan.kind == "expert") now.insert(child.plan.name);
  }
  if (before == now) return;
  for (const Child& child : children_) {
    std::error_code error;
    std::filesystem::remove(placement::TopologyFilePath(options_.state_dir, child.plan.name),
                            error);
  }
}

absl::Status Supervisor::Start(Duration timeout) {
  for (const Child& child : children_) RotateLog(child.state.log);
  ForgetOtherWorkers();
  for (Child& child : children_) RETURN_IF_ERROR(StartOne(child));
  Save("starting");
  const TimePoint deadline = clock_.Now() + timeout;
  TimePoint next_progress = clock_.Now() + kProgressPeriod;
  TimePoint ready_at{};
  std::string missing = "the gateway does not answer";
  while (clock_.Now() < deadline) {
    absl::Status failed;
    Reap([&](Child& child, const ChildEnd& end) {
      const std::string taken = PortTaken(child);
      const std::string line = LastWords(child) + taken;
      const std::string text = absl::StrCat("(", child.state.pid, ") ", end.ToString(), ": ", line);
      if (end.signal == 0 || child.restarts.Exhausted(clock_.Now())) {
        // All that open the checkpoint find the same fault in it: it is shown once, as the error.
        start_failed_ = true;
        Record(child.state.name, text);
        const std::string message = absl::StrCat(child.state.name, " ", end.ToString(), ": ", line,
                                                 "\n  (its log: ", child.state.log, ")");
        // Who took the port may have ended by now, because it met the same.
        const bool lost_port = !taken.empty() || absl::StrContains(line, " in use");
        failed.Update(lost_port ? absl::AlreadyExistsError(message) : absl::AbortedError(message));
      } else {
        Tell(child.state.name, text);
        child.restart_at = clock_.Now() + child.restarts.DelayAfterDeath(clock_.Now());
      }
    });
    RETURN_IF_ERROR(failed);
    RestartDue();
    if (const auto ready = HttpGet(options_.plan.gateway_ops_address, "/readyz", kReadyTimeout);
        ready.ok()) {
      // The members report every half second: `ps` right after shall show what is true now.
      if (ready->status == 200 && ready_at == TimePoint{}) ready_at = clock_.Now();
      if (ready->status == 200 &&
          (StartingLine().empty() || clock_.Now() - ready_at > kReportGrace)) {
        Save("ready");
        Tell("cluster", absl::StrCat("ready with ", children_.size(), " processes"));
        return absl::OkStatus();
      }
      missing = ready->body;
    }
    if (clock_.Now() >= next_progress) {
      if (options_.on_progress) options_.on_progress(StartingLine());
      next_progress = clock_.Now() + kProgressPeriod;
    }
    if (signals_.WaitFor(kTick)) return absl::CancelledError("interrupted while starting");
  }
  return absl::DeadlineExceededError(absl::StrCat(
      "the cluster was not ready in ",
      FormatSeconds(std::chrono::duration<double>(timeout).count()), ": ", missing, "; see ",
      Hint("logs", options_.state_dir), ", or allow more time: --up-start-timeout-s"));
}

void Supervisor::RestartDue() {
  const TimePoint now = clock_.Now();
  for (Child& child : children_) {
    if (child.state.pid != 0 || child.restart_at == TimePoint{} || now < child.restart_at) continue;
    child.restart_at = {};
    const int in_a_minute = child.restarts.Restarted(now);
    ++child.state.restarts;
    const absl::Status status = StartOne(child);
    if (!status.ok()) {
      Tell(child.state.name, std::string(status.message()));
      child.restart_at = now + child.restarts.DelayAfterDeath(now);
      continue;
    }
    Tell(child.state.name,
         absl::StrCat("restarted as ", child.state.pid, " (", in_a_minute, " of at most ",
                      RestartPolicy::kMostPerMinute, " a minute)"));
    Save("ready");
  }
}

void Supervisor::KeepStateFolder() {
  if (clock_.Now() < next_look_) return;
  next_look_ = clock_.Now() + kFolderPeriod;
  if (options_.lock->InPlace()) return;
  std::error_code error;
  std::filesystem::create_directories(options_.state_dir + "/logs", error);
  if (error || !options_.lock->Retake().ok()) return;  // tried again in a second
  Save("ready");
  Tell("supervisor",
       "found the state folder deleted and made it again; processes that run now log nowhere until "
       "they are restarted");
}

void Supervisor::Supervise() {
  while (!signals_.WaitFor(kTick)) {
    KeepStateFolder();
    bool changed = false;
    Reap([&](Child& child, const ChildEnd& end) {
      const Duration delay = child.restarts.DelayAfterDeath(clock_.Now());
      child.restart_at = clock_.Now() + delay;
      const double seconds = std::chrono::duration<double>(delay).count();
      child.state.restart_at_unix_ms = UnixMs() + static_cast<int64_t>(seconds * 1000);
      const std::string line = end.signal == SIGKILL ? "" : LastWords(child);
      Tell(child.state.name,
           absl::StrCat("(", child.state.pid, ") ", end.ToString(), line.empty() ? "" : ": ", line,
                        "; restarts in ", FormatSeconds(seconds)),
           true);
      changed = true;
    });
    if (changed) Save("ready");
    RestartDue();
  }
}

bool Supervisor::WaitForEnd(const std::string& kind, Duration grace) {
  const TimePoint deadline = clock_.Now() + grace;
  for (;;) {
    Reap([&](Child& child, const ChildEnd& end) {
      TakeDrainReport(child);
      // A process that has only just begun ends by the signal itself.
      if (end.clean() || end.signal == SIGTERM) return;
      Record(child.state.name, absl::StrCat("(", child.state.pid, ") ", end.ToString(),
                                            " while draining: ", LastWords(child)));
    });
    const bool running = std::any_of(children_.begin(), children_.end(), [&](const Child& child) {
      return child.state.pid != 0 && child.plan.kind == kind;
    });
    if (!running) return true;
    if (clock_.Now() >= deadline || signals_.WaitFor(kTick)) return false;
  }
}

void Supervisor::TakeDrainReport(const Child& child) {
  if (child.plan.kind != "gateway") return;
  const auto report = ReadDrainReport(DrainReportPath(options_.state_dir, child.plan.name));
  if (!report.ok() || report->pid != child.state.pid) return;
  state_.drained_requests = report->running;
  state_.cut_off_requests = report->cut_off;
}

int Supervisor::Stop() {
  Save("draining");
  int ended = 0;
  for (const Child& child : children_) ended += child.state.pid != 0 ? 1 : 0;
  const Duration drain = std::chrono::seconds(options_.common.drain_seconds) + kExitGrace;
  bool graceful = true;
  for (const char* kind : {"gateway", "engine", "expert", "controller"}) {
    for (const Child& child : children_) {
      if (child.plan.kind == kind && child.state.pid != 0) {
        kill(static_cast<pid_t>(child.state.pid), graceful ? SIGTERM : SIGKILL);
      }
    }
    if (WaitForEnd(kind, drain)) continue;
    graceful = false;
    for (const Child& child : children_) {
      if (child.plan.kind != kind || child.state.pid == 0) continue;
      Tell(child.state.name, "did not end in time and is killed");
      kill(static_cast<pid_t>(child.state.pid), SIGKILL);
    }
    WaitForEnd(kind, kExitGrace);
  }
  state_.supervisor_pid = 0;
  Save("ended");
  return ended;
}

}  // namespace conclave::cli
