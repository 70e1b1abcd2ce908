#include "services/cli/checks.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "services/cli/bundled_model.h"
#include "services/cli/cluster_plan.h"
#include "services/cli/cluster_state.h"
#include "services/cli/hint.h"
#include "services/cli/table.h"
#include "shared/base/byte_size.h"
#include "shared/base/limits.h"
#include "shared/base/version.h"

namespace conclave::cli {
namespace {

namespace fs = std::filesystem;

// Sockets of clients beside those of peers: for many clients at once.
constexpr int64_t kFilesWanted = 1024;

}  // namespace

Check FailedCheck(const std::string& name, const absl::Status& status,
                  const std::string& otherwise) {
  const std::string message(status.message());
  const size_t end = message.find("; ");
  return {.name = name,
          .verdict = Verdict::kFail,
          .found = message.substr(0, end),
          .remedy = end == std::string::npos ? otherwise : message.substr(end + 2)};
}

Check CheckCpu(const std::string& flags) {
  const std::set<std::string> found = absl::StrSplit(flags, ' ', absl::SkipWhitespace());
  const auto has = [&](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (!found.contains(name)) return false;
    }
    return true;
  };
  Check check{.name = "cpu"};
  const bool avx512 = has({"avx512f", "avx512bw", "avx512vl", "avx512dq"});
  if (avx512 && has({"avx512_vnni", "avx512_bf16"})) {
    check.found = "AVX-512 with BF16 and VNNI";
  } else if (avx512) {
    check.found = absl::StrCat("AVX-512 without BF16", has({"avx512_vnni"}) ? "" : " and VNNI",
                               ": more instructions are taken, to the same bits");
  } else if (has({"avx2", "fma"})) {
    check.found = absl::StrCat("AVX2 ", has({"avx_vnni"}) ? "with" : "without",
                               " VNNI, no AVX-512: more instructions are taken, to the same bits");
  } else {
    check.verdict = Verdict::kWarn;
    check.found = "no AVX2: the scalar kernels are used, to the same bits but slowly";
    check.remedy =
        "use a processor with AVX2 (Intel since Haswell, AMD since Zen), or better AVX-512 (Intel "
        "since Ice Lake, AMD since Zen 4), for speed";
  }
  return check;
}

Check CheckCores() {
  const CpuLimit limit = ReadCpuLimit();
  Check check{.name = "cores",
              .found = absl::StrCat(Count(limit.cores, "core"), " to use (", limit.reason, ")")};
  if (limit.cores < 2) {
    check.verdict = Verdict::kWarn;
    check.remedy =
        "give the container or the service at least 2 processors: engine and workers share one now";
  }
  return check;
}

Check CheckAllSettings(const Context& context) {
  if (const absl::Status status = CheckSettings(context); !status.ok()) {
    return FailedCheck("settings", status,
                       Hint("config show", context.state_dir) + " says where each comes from");
  }
  for (const std::string& exposure :
       {SecretExposure(context.options.common), context.options.ApiExposure()}) {
    if (exposure.empty()) continue;
    Check check = FailedCheck("settings", absl::InvalidArgumentError(exposure), "");
    check.verdict = Verdict::kWarn;
    return check;
  }
  const auto set =
      std::count_if(context.rows.begin(), context.rows.end(), [](const Settings::Row& row) {
        return row.source != "default" && row.source != kBundledSource;
      });
  return {.name = "settings", .found = absl::StrCat(set, " set, the others at their defaults")};
}

Check CheckPorts(const Context& context) {
  Check check{.name = "ports"};
  if (const auto running = ReadRunningCluster(context.state_dir); running.ok()) {
    check.found =
        absl::StrCat("in use by the cluster that runs here: http://", running->http_address);
    if (!running->supervised) {
      check.verdict = Verdict::kWarn;
      absl::StrAppend(&check.found, "; its supervisor (", running->supervisor_pid,
                      ") is dead, so nothing that dies is started again");
      check.remedy = absl::StrCat(Hint("down", context.state_dir), ", then ",
                                  Hint("up -d", context.state_dir));
    }
    return check;
  }
  const auto plan = PlanCluster(context, 1);
  if (!plan.ok())
    return FailedCheck("ports", plan.status(), Hint("up --auto-ports", context.state_dir));
  check.found = absl::StrCat("free: HTTP ", plan->http_address, ", gRPC ", plan->grpc_address,
                             " and those of ", plan->processes.size() - 1, " more processes");
  return check;
}

Check CheckLimits(ProcessLimits limits) {
  limits.open_files = limits.most_open_files;  // `up` raises the one to the other
  if (const absl::Status status =
          CheckProcessLimits(limits, kServiceAddressSpace, kServiceOpenFiles);
      !status.ok()) {
    return FailedCheck("limits", status, "");
  }
  Check check{.name = "limits",
              .found = absl::StrCat(
                  limits.open_files, " open files, ",
                  limits.address_space_bytes == 0
                      ? std::string("address space unlimited")
                      : absl::StrCat("address space ", FormatBytes(limits.address_space_bytes)))};
  if (limits.open_files < kFilesWanted) {
    check.verdict = Verdict::kWarn;
    check.remedy = absl::StrCat("ulimit -n ", kFilesWanted, " (systemd: LimitNOFILE=", kFilesWanted,
                                "): each client takes one");
  } else if (limits.address_space_bytes != 0) {
    check.verdict = Verdict::kWarn;
    check.remedy = "ulimit -v unlimited: weights and KV cache are mapped, used or not";
  }
  return check;
}

Check CheckPrograms() {
  Check check{.name = "version",
              .found = absl::StrCat(std::string(Version()), ", commit ", std::string(Commit()))};
  std::error_code error;
  const fs::path here = fs::read_symlink("/proc/self/exe", error).parent_path();
  std::vector<std::string> missing, other;
  for (const char* kind : {"controller", "gateway", "engine", "expert"}) {
    const std::string name = absl::StrCat("conclave-", kind);
    const std::string path = (here / name).string();
    if (!fs::exists(path, error)) {
      missing.push_back(name);
      continue;
    }
    // The path is of this program's own folder; quotes keep its spaces.
    FILE* const pipe = popen(absl::StrCat("'", path, "' --version 2>/dev/null").c_str(), "r");
    char line[256] = "";
    if (pipe != nullptr) {
      if (fgets(line, sizeof(line), pipe) == nullptr) line[0] = '\0';
      pclose(pipe);
    }
    const std::string wanted =
        absl::StrCat(name, " ", std::string(Version()), " (commit ", std::string(Commit()), ")\n");
    if (line != wanted) other.push_back(name);
  }
  if (!missing.empty()) {
    check.verdict = Verdict::kFail;
    absl::StrAppend(&check.found, "; not in ", here.string(), ": ", absl::StrJoin(missing, ", "));
    check.remedy = "build all programs: ci/quickstart.sh, or cmake --build build";
  } else if (!other.empty()) {
    check.verdict = Verdict::kWarn;
    absl::StrAppend(&check.found, "; of another build: ", absl::StrJoin(other, ", "));
    check.remedy = "build all programs together: cmake --build build";
  }
  return check;
}

Check CheckStateDir(const std::string& state_dir) {
  Check check{.name = "state", .found = state_dir};
  std::error_code error;
  fs::create_directories(state_dir, error);
  if (error || access(state_dir.c_str(), W_OK) != 0) {
    check.verdict = Verdict::kFail;
    absl::StrAppend(&check.found, " cannot be written",
                    error ? absl::StrCat(": ", error.message()) : std::string());
    check.remedy = "choose another folder: --state-dir DIR";
    return check;
  }
  if (const absl::Status room = CheckRoom(state_dir); !room.ok()) {
    return FailedCheck("state", room, "choose another folder: --state-dir DIR");
  }
  const fs::space_info space = fs::space(state_dir, error);
  absl::StrAppend(&check.found, ", ", FormatBytes(static_cast<int64_t>(space.available)), " free");
  if (space.available < (100u << 20)) {
    check.verdict = Verdict::kWarn;
    check.remedy = "free some space: logs and the last topology lie there";
  }
  return check;
}

Check CheckMemory() {
  const MemoryLimit limit = ReadMemoryLimit();
  Check check{.name = "memory",
              .found = absl::StrCat(FormatBytes(limit.available_bytes), " free of ",
                                    FormatBytes(limit.total_bytes), " (", limit.reason, ")")};
  if (limit.available_bytes < (int64_t{256} << 20)) {
    check.verdict = Verdict::kFail;
    check.remedy = "end other programs, or raise the limit of the container";
  }
  return check;
}

}  // namespace conclave::cli
