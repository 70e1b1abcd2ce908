#include "services/cli/eval/evaluator.h"

#include <signal.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/cli/bench_cluster/child.h"
#include "services/cli/child_process.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

namespace fs = std::filesystem;

constexpr auto kPoll = std::chrono::milliseconds(20);
// The ids of all answers are in it.
constexpr uint64_t kMaxAnswerBytes = uint64_t{1} << 30;

std::string EngineProgram() {
  std::error_code error;
  return (fs::read_symlink("/proc/self/exe", error).parent_path() / "conclave-engine").string();
}

}  // namespace

absl::StatusOr<nlohmann::json> RunEvaluation(const nlohmann::json& request, StopSignals& signals) {
  const TemporaryFolder folder;
  if (folder.path().empty()) {
    return absl::UnavailableError(
        "no folder for temporary files can be made; set TMPDIR to one that can be written to");
  }
  ChildSpec spec = {.program = EngineProgram(),
                    .flags = {"evaluate"},
                    .log = folder.path() + "/answer.json",
                    .input = folder.path() + "/request.json",
                    .in_foreground = true};
  RETURN_IF_ERROR(WriteJsonFile(spec.input, request));
  ASSIGN_OR_RETURN(const pid_t pid, StartChild(spec));
  bool interrupted = false;
  std::optional<ChildEnd> end;
  while (!(end = PollChild(pid))) {
    if (!signals.WaitFor(kPoll)) continue;
    interrupted = true;
    kill(pid, SIGTERM);
  }
  if (interrupted || end->signal == SIGINT) return absl::CancelledError("interrupted");
  const auto answer = ReadJsonFile(spec.log, kMaxAnswerBytes);
  if (!answer.ok() || !answer->is_object()) {
    return absl::UnavailableError(
        absl::StrCat(spec.program, " ", end->ToString(),
                     end->signal == SIGKILL ? ", as the system does when memory runs out" : "",
                     " and gave no answer"));
  }
  if (const auto error = answer->find("error"); error != answer->end()) {
    return absl::Status(static_cast<absl::StatusCode>(error->value("code", 2)),
                        error->value("message", "it failed"));
  }
  return *answer;
}

}  // namespace conclave::cli
