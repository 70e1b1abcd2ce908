#include "services/cli/bench_cluster/child.h"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

namespace fs = std::filesystem;

constexpr auto kPoll = std::chrono::milliseconds(10);
constexpr auto kEndPatience = std::chrono::seconds(30);

}  // namespace

TemporaryFolder::TemporaryFolder() {
  std::error_code error;
  const fs::path parent = fs::temp_directory_path(error);
  if (error) return;
  path_ = (parent / "conclave-bench-XXXXXX").string();
  if (mkdtemp(path_.data()) == nullptr) path_.clear();
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code error;
  if (!path_.empty()) fs::remove_all(path_, error);
}

absl::StatusOr<std::unique_ptr<Child>> Child::Start(std::vector<std::string> arguments,
                                                    const std::string& log) {
  std::error_code error;
  ASSIGN_OR_RETURN(const pid_t pid,
                   StartChild({.program = fs::read_symlink("/proc/self/exe", error).string(),
                               .flags = std::move(arguments),
                               .log = log}));
  return std::unique_ptr<Child>(new Child(pid, log));
}

Child::~Child() {
  const auto deadline = std::chrono::steady_clock::now() + kEndPatience;
  if (running()) kill(pid_, SIGTERM);
  while (running()) {
    if (std::chrono::steady_clock::now() > deadline) kill(pid_, SIGKILL);
    std::this_thread::sleep_for(kPoll);
  }
}

bool Child::running() {
  if (!end_) end_ = PollChild(pid_);
  return !end_;
}

absl::Status Child::WhyEnded() const {
  return absl::UnavailableError(
      absl::StrCat(end_ ? end_->ToString() : "it does not answer", ": ", LastLogLine(log_)));
}

}  // namespace conclave::cli
