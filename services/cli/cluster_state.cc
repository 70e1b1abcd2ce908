#include "services/cli/cluster_state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/cli/hint.h"
#include "services/cli/table.h"
#include "shared/base/byte_size.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {

// Beside its type, where the JSON library looks for it.
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(ProcessState, name, kind, pid, start_ticks, address,
                                                ops_address, log, restarts, restart_at_unix_ms,
                                                last_end)

namespace {

using nlohmann::json;

// A start of five processes writes some 20 KiB of state and logs.
constexpr int64_t kRoomBytes = 1 << 20;

json ToJson(const ClusterState& state) {
  return {{"cluster_id", state.cluster_id},
          {"phase", state.phase},
          {"model", state.model},
          {"supervisor_pid", state.supervisor_pid},
          {"supervisor_start_ticks", state.supervisor_start_ticks},
          {"http_address", state.http_address},
          {"grpc_address", state.grpc_address},
          {"controller_address", state.controller_address},
          {"cluster_secret_file", state.cluster_secret_file},
          {"tls_cert_file", state.tls.cert},
          {"tls_key_file", state.tls.key},
          {"tls_ca_file", state.tls.ca},
          {"tls_server_name", state.tls_server_name},
          {"api_tls", state.api_tls},
          {"drain_seconds", state.drain_seconds},
          {"drained_requests", state.drained_requests},
          {"cut_off_requests", state.cut_off_requests},
          {"processes", state.processes}};
}

std::string LockPath(const std::string& state_dir) { return state_dir + "/up.lock"; }

}  // namespace

std::string DescribeDrain(const ClusterState& state) {
  const auto were = [](int64_t number) { return number == 1 ? " was " : " were "; };
  if (state.drained_requests < 0) return "";
  if (state.drained_requests == 0) return ", no request was running";
  std::string text = absl::StrCat(", ", Count(state.drained_requests, "request"),
                                  were(state.drained_requests), "running");
  if (state.cut_off_requests == state.drained_requests) {
    absl::StrAppend(&text, " and", were(state.cut_off_requests), "cut off");
  } else if (state.cut_off_requests > 0) {
    absl::StrAppend(&text, ", ", state.cut_off_requests, were(state.cut_off_requests), "cut off");
  }
  return text;
}

std::string ClusterStatePath(const std::string& state_dir) { return state_dir + "/cluster.json"; }

absl::Status WriteClusterState(const std::string& state_dir, const ClusterState& state) {
  return WriteJsonFile(ClusterStatePath(state_dir), ToJson(state));
}

absl::StatusOr<ClusterState> ReadClusterState(const std::string& state_dir) {
  const std::string path = ClusterStatePath(state_dir);
  ASSIGN_OR_RETURN(const json value, ReadJsonFile(path));
  try {
    ClusterState state;
    state.cluster_id = value.value("cluster_id", "");
    state.phase = value.at("phase");
    state.model = value.at("model");
    state.supervisor_pid = value.at("supervisor_pid");
    state.supervisor_start_ticks = value.at("supervisor_start_ticks");
    state.http_address = value.at("http_address");
    state.grpc_address = value.at("grpc_address");
    state.controller_address = value.at("controller_address");
    state.cluster_secret_file = value.at("cluster_secret_file");
    state.tls.cert = value.value("tls_cert_file", "");
    state.tls.key = value.value("tls_key_file", "");
    state.tls.ca = value.value("tls_ca_file", "");
    state.tls_server_name = value.value("tls_server_name", state.tls_server_name);
    state.api_tls = value.value("api_tls", false);
    state.drain_seconds = value.value("drain_seconds", int64_t{0});
    state.drained_requests = value.value("drained_requests", int64_t{-1});
    state.cut_off_requests = value.value("cut_off_requests", int64_t{0});
    state.processes = value.at("processes").get<std::vector<ProcessState>>();
    state.supervised = IsAlive(state.supervisor_pid, state.supervisor_start_ticks);
    return state;
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " is not a cluster's state: ", error.what(), "; remove it if no cluster runs"));
  }
}

int64_t StartTicks(int64_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  if (!file || !std::getline(file, line)) return 0;
  // The second field is the name in parentheses, which may hold spaces and parentheses itself.
  const size_t end = line.rfind(')');
  if (end == std::string::npos) return 0;
  std::istringstream fields(line.substr(end + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) {
    fields >> field;
    if (i == 3 && (field == "Z" || field == "X")) return 0;  // dead, not yet waited for
  }
  return std::strtoll(field.c_str(), nullptr, 10);
}

bool IsAlive(int64_t pid, int64_t start_ticks) {
  return pid > 0 && start_ticks > 0 && StartTicks(pid) == start_ticks;
}

bool AnyAlive(const std::vector<ProcessState>& processes) {
  return std::any_of(processes.begin(), processes.end(), [](const ProcessState& process) {
    return IsAlive(process.pid, process.start_ticks);
  });
}

absl::StatusOr<ClusterState> ReadRunningCluster(const std::string& state_dir) {
  absl::StatusOr<ClusterState> state = ReadClusterState(state_dir);
  if (!state.ok() && !absl::IsNotFound(state.status())) return state.status();
  if (state.ok() && state->supervised) return state;
  if (state.ok() && AnyAlive(state->processes)) {
    state->phase = "unsupervised";
    for (ProcessState& process : state->processes) {
      process.restart_at_unix_ms = 0;
      if (IsAlive(process.pid, process.start_ticks)) continue;
      process.pid = 0;
      process.last_end = "ended";
    }
    return state;
  }
  return absl::FailedPreconditionError(absl::StrCat("no cluster runs here (state folder ",
                                                    state_dir,
                                                    "); start one: ", Hint("up -d", state_dir)));
}

absl::StatusOr<SupervisorLock> SupervisorLock::Take(const std::string& state_dir) {
  std::error_code error;
  std::filesystem::create_directories(state_dir, error);
  const std::string path = LockPath(state_dir);
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot make ", path, ": ", std::strerror(errno),
                                                   "; choose another --state-dir"));
  }
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    close(fd);
    return absl::FailedPreconditionError(absl::StrCat("another `conclave up` holds ", path));
  }
  return SupervisorLock(state_dir, fd);
}

SupervisorLock::SupervisorLock(SupervisorLock&& other) noexcept
    : state_dir_(other.state_dir_), fd_(std::exchange(other.fd_, -1)) {}

bool SupervisorLock::InPlace() const {
  struct stat held, found;
  return fstat(fd_, &held) == 0 && stat(LockPath(state_dir_).c_str(), &found) == 0 &&
         held.st_dev == found.st_dev && held.st_ino == found.st_ino;
}

absl::Status SupervisorLock::Retake() {
  ASSIGN_OR_RETURN(SupervisorLock lock, Take(state_dir_));
  std::swap(fd_, lock.fd_);
  return absl::OkStatus();
}

SupervisorLock::~SupervisorLock() {
  if (fd_ >= 0) close(fd_);
}

absl::Status CheckRoom(const std::string& state_dir) {
  const std::string path = absl::StrCat(state_dir, "/room.", getpid());
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  int problem = fd < 0 ? errno : 0;
  if (fd >= 0) {
    const std::string bytes(kRoomBytes, ' ');
    for (size_t done = 0; done < bytes.size() && problem == 0;) {
      const ssize_t count = write(fd, bytes.data() + done, bytes.size() - done);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) problem = errno;
      if (count > 0) done += static_cast<size_t>(count);
    }
    close(fd);
    unlink(path.c_str());
  }
  if (problem == 0) return absl::OkStatus();
  if (problem != ENOSPC && problem != EDQUOT) {
    return absl::InvalidArgumentError(absl::StrCat("cannot write in ", state_dir, ": ",
                                                   std::strerror(problem),
                                                   "; choose another --state-dir"));
  }
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(state_dir, error);
  return absl::ResourceExhaustedError(absl::StrCat(
      "no space left on ", state_dir, ": ",
      error ? std::string(std::strerror(problem))
            : absl::StrCat(FormatBytes(static_cast<int64_t>(space.available)), " free of ",
                           FormatBytes(static_cast<int64_t>(space.capacity))),
      ", wanted at least ", FormatBytes(kRoomBytes),
      " for state and logs; free some, or choose another --state-dir"));
}

absl::Status AppendEvent(const std::string& state_dir, const Event& event) {
  std::ofstream file(state_dir + "/events.jsonl", std::ios::app);
  json line = {{"unix_ms", event.unix_ms}, {"member", event.member}, {"text", event.text}};
  if (event.death) line["death"] = true;
  file << line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n" << std::flush;
  if (file) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot write ", state_dir, "/events.jsonl"));
}

std::vector<Event> ReadEvents(const std::string& state_dir) {
  std::vector<Event> events;
  std::ifstream file(state_dir + "/events.jsonl");
  std::string line;
  while (std::getline(file, line)) {
    const json value = json::parse(line, nullptr, false);
    if (!value.is_object()) continue;
    events.push_back({.unix_ms = value.value("unix_ms", int64_t{0}),
                      .member = value.value("member", ""),
                      .text = value.value("text", ""),
                      .death = value.value("death", false)});
  }
  return events;
}

}  // namespace conclave::cli
