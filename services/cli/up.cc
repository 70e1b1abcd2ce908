// `conclave up`: starts a local cluster and supervises it, in the foreground or (-d) in the
// background.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "services/cli/cluster_plan.h"
#include "services/cli/command.h"
#include "services/cli/fit_checks.h"
#include "services/cli/hint.h"
#include "services/cli/leftovers.h"
#include "services/cli/supervisor.h"
#include "services/cli/table.h"
#include "shared/base/json_file.h"
#include "shared/base/limits.h"
#include "shared/base/random_bytes.h"
#include "shared/base/status_macros.h"
#include "shared/model/served_model.h"
#include "shared/weights/model_files.h"
#include "shared/weights/stored_model.h"

namespace conclave::cli {
namespace {

namespace fs = std::filesystem;

// "build/conclave chat" and two more fit on a line of a terminal.
constexpr size_t kLongHint = 20;
constexpr int kPollMs = 50;
// Of a start with --auto-ports, each with other ports.
constexpr int kMostAttempts = 8;
constexpr uint32_t kLongestWaitMs = 1000;

std::string ProgramsDir() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path().string();
}

// Of the terminal: a longer line would wrap, and only its end be taken back.
size_t Columns(int fd) {
  winsize size{};
  return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

// Says what is happening: on this terminal, or through a pipe to the process that the person
// started.
class Reporter {
 public:
  explicit Reporter(FILE* out) : out_(out), terminal_(isatty(fileno(out)) != 0) {}

  void Progress(const std::string& line) {
    if (line == last_) return;
    last_ = line;
    if (terminal_) {
      std::fprintf(out_, "\r\033[K%s", line.substr(0, Columns(fileno(out_)) - 1).c_str());
    } else {
      std::fprintf(out_, "%s\n", line.c_str());
    }
    std::fflush(out_);
  }
  void Line(const std::string& line) {
    std::fprintf(out_, "%s%s\n", terminal_ && !last_.empty() ? "\r\033[K" : "", line.c_str());
    last_.clear();
    std::fflush(out_);
  }

 private:
  FILE* const out_;
  const bool terminal_;
  std::string last_;
};

// The lines that come through a pipe.
class LineSource {
 public:
  explicit LineSource(int fd) : fd_(fd) {}
  ~LineSource() { close(fd_); }

  // Whether Next would return at once.
  bool Wait(int timeout_ms) {
    if (ended_ || buffer_.find('\n') != std::string::npos) return true;
    pollfd input = {fd_, POLLIN, 0};
    if (poll(&input, 1, timeout_ms) <= 0) return false;
    char bytes[4096];
    const ssize_t count = read(fd_, bytes, sizeof(bytes));
    if (count > 0) buffer_.append(bytes, static_cast<size_t>(count));
    ended_ = count == 0 || (count < 0 && errno != EINTR);
    return ended_ || buffer_.find('\n') != std::string::npos;
  }
  // The next line without its end; nullopt when there is no more.
  std::optional<std::string> Next() {
    const size_t end = buffer_.find('\n');
    if (end == std::string::npos) return std::nullopt;
    std::string line = buffer_.substr(0, end);
    buffer_.erase(0, end + 1);
    return line;
  }

 private:
  const int fd_;
  std::string buffer_;
  bool ended_ = false;
};

class UpCommand final : public Command {
 public:
  const char* name() const override { return "up"; }
  const char* summary() const override { return "start a local cluster and supervise it"; }
  void AddFlags(CLI::App& app) override {
    app.add_flag("-d,--detach", detach_,
                 "return when the cluster is ready; it goes on in the background");
    app.footer(
        "  --model DIR            checkpoint folder, packed file, or org/name in the Hugging Face "
        "cache\n"
        "  --workers N            expert workers; 0: experts in the engines [2]\n"
        "  --engines N            [1]\n"
        "  --base-port PORT       gateway HTTP; the other ports lie above it [8000]\n"
        "  --auto-ports           take the nearest free ports when some are busy\n"
        "Settings of the services are flags here, with the section before the name, such as\n"
        "  --engine-kv-memory 2GiB --gateway-http-listen 127.0.0.1:9000; conclave config show "
        "lists all.");
  }
  int Run(const Context& context) override;

 private:
  absl::Status Prepare(const Context& context, ClusterPlan* plan);
  int RunHere(const Context& context, const ClusterPlan& first_plan, Reporter& reporter,
              int ready_fd);
  int RunDetached(const Context& context, const ClusterPlan& plan);

  bool detach_ = false;
};

// That the settings go with the model: every process would refuse other formats than a packed
// file's, and the cluster would wait for workers that never come if expert.memory had no room for
// the experts.
absl::Status CheckAgainstModel(const Context& context, const fs::path& folder) {
  const bool packed = weights::IsPackedFile(folder);
  if (!packed && context.options.expert.memory.bytes == 0) return absl::OkStatus();
  const auto stored = weights::OpenModel(folder, {});
  // What is wrong with a checkpoint, its services say.
  if (!stored.ok()) return packed ? stored.status() : absl::OkStatus();
  const auto formats = model::ChooseFormats(**stored, context.options.common.numerics);
  if (!formats.ok()) return NameSource(formats.status(), context.rows);
  if (context.options.expert.memory.bytes == 0) return absl::OkStatus();
  const auto own = OwnFormats::Of(**stored, *formats);
  return NameSource(CheckExpertsFit((*stored)->config(), context.options, own), context.rows);
}

absl::Status UpCommand::Prepare(const Context& context, ClusterPlan* plan) {
  const AllOptions& options = context.options;
  RaiseOpenFiles();
  RETURN_IF_ERROR(CheckProcessLimits(ReadProcessLimits(), kServiceAddressSpace, kServiceOpenFiles));
  RETURN_IF_ERROR(CheckSettings(context));
  if (options.common.model.empty()) {
    return absl::InvalidArgumentError(
        "no model: give --model DIR (a checkpoint folder, a packed file, or org/name in the "
        "Hugging "
        "Face cache)");
  }
  // Five processes need not start to find that it is not there.
  ASSIGN_OR_RETURN(const fs::path folder, weights::ResolveModel(options.common.model));
  RETURN_IF_ERROR(CheckAgainstModel(context, folder));
  if (const auto running = ReadRunningCluster(context.state_dir);
      running.ok() && running->supervised) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a cluster runs here already: ", running->model, " at http://", running->http_address,
        "/v1 (supervisor ", running->supervisor_pid,
        "); look at it: ", Hint("ps", context.state_dir),
        ", stop it: ", Hint("down", context.state_dir), ", or start another: --state-dir DIR"));
  }
  if (const Leftovers left = EndLeftovers(context.state_dir); left.ended > 0) {
    std::fprintf(stderr, "ended %s of a cluster whose supervisor had died%s\n",
                 Count(left.ended, "process").c_str(), left.drain.c_str());
  }
  std::error_code error;
  fs::create_directories(context.state_dir + "/logs", error);
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat("cannot make ", context.state_dir,
                                                   "/logs: ", error.message(),
                                                   "; choose another --state-dir"));
  }
  RETURN_IF_ERROR(CheckRoom(context.state_dir));
  ASSIGN_OR_RETURN(*plan, PlanCluster(context, ReadCpuLimit().cores));
  return absl::OkStatus();
}

// Who must show what.
std::string GuardLine(const AllOptions& options) {
  const bool keys = !options.gateway.keys_file.empty();
  const bool certificates = options.common.tls.configured();
  const bool secret = !options.common.cluster_secret_file.empty();
  if (!certificates && !secret) {
    return keys ? "Loopback only; clients show an API key." : "Loopback only, no authentication.";
  }
  return absl::StrCat("Processes show each other ", certificates ? "certificates" : "a secret",
                      keys ? "; clients show an API key." : "; clients need none.");
}

std::string ReadyLines(const ClusterPlan& plan, const Context& context, double seconds,
                       bool foreground) {
  const std::string next = "\n  ";
  // With a state folder in each, three commands are too long for one line.
  const bool long_hints = Hint("", context.state_dir).size() > kLongHint;
  const std::string between = long_hints ? next : "   ";
  return absl::StrCat("Ready in ", FormatSeconds(seconds), ". ", GuardLine(context.options),
                      "\n  HTTP http", plan.api_tls ? "s" : "", "://", plan.http_address,
                      "/v1   gRPC ", plan.grpc_address, "   logs ", context.state_dir, "/logs",
                      next, "talk: ", Hint("chat", context.state_dir), between,
                      "look: ", Hint("ps", context.state_dir), between,
                      "stop: ", foreground ? "Ctrl-C" : Hint("down", context.state_dir));
}

// Runs until stopped. `ready_fd`, if not -1, is closed when the start is over; what was reported
// before is read by its other end.
int UpCommand::RunHere(const Context& context, const ClusterPlan& first_plan, Reporter& reporter,
                       int ready_fd) {
  StopSignals signals;
  umask(077);  // state and logs are the owner's alone
  auto lock = SupervisorLock::Take(context.state_dir);
  if (!lock.ok()) {
    reporter.Line(absl::StrCat("error: ", std::string(lock.status().message())));
    return kExitNotRunning;
  }
  const auto started = std::chrono::steady_clock::now();
  const bool foreground = ready_fd < 0;
  std::error_code error;
  Supervisor::Options options = {
      .plan = first_plan,
      .programs_dir = ProgramsDir(),
      .state_dir = context.state_dir,
      .model = fs::absolute(context.options.common.model, error).string(),
      .common = context.options.common,
      .lock = &*lock,
      .on_event =
          [&](const Event& event) {
            if (foreground && event.member != "cluster") {
              reporter.Line(
                  absl::StrCat(FormatClock(event.unix_ms), " ", event.member, " ", event.text));
            }
          },
      .on_progress = [&](const std::string& line) { reporter.Progress(line); }};
  std::optional<Supervisor> supervisor;
  absl::Status status;
  for (int attempt = 1; attempt <= kMostAttempts; ++attempt) {
    supervisor.emplace(options, signals);
    status = supervisor->Start(std::chrono::seconds(context.options.up.start_timeout_s));
    // Between looking for free ports and listening on them, another program can take one.
    if (!absl::IsAlreadyExists(status) || !context.options.up.auto_ports) break;
    supervisor->Stop();
    // Two that start at the same time shall not meet again.
    uint32_t random = 0;
    FillRandom(&random, sizeof(random));
    if (signals.WaitFor(std::chrono::milliseconds(random % kLongestWaitMs))) {
      status = absl::CancelledError("interrupted while starting");
      break;
    }
    auto plan = PlanCluster(context, ReadCpuLimit().cores);
    if (!plan.ok()) break;
    options.plan = *std::move(plan);
    reporter.Progress("a port was taken meanwhile: starting again on others");
  }
  if (!status.ok()) {
    const bool interrupted = absl::IsCancelled(status);
    if (!interrupted) reporter.Line(absl::StrCat("error: ", std::string(status.message())));
    const int ended = supervisor->Stop();
    if (!interrupted) return kExitFailed;
    reporter.Line(absl::StrCat("error: interrupted while starting; ", Count(ended, "process"),
                               " ended, nothing goes on"));
    return kExitInterrupted;
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  reporter.Line(ReadyLines(options.plan, context, seconds, foreground));
  if (!foreground) {
    // Ends the pipe for the waiting parent: from now on there is nobody to talk to.
    const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(nowhere, ready_fd);
    close(nowhere);
  }
  supervisor->Supervise();
  const auto stopping = std::chrono::steady_clock::now();
  if (foreground) reporter.Progress("draining; Ctrl-C again ends at once");
  const int ended = supervisor->Stop();
  if (foreground) {
    reporter.Line(absl::StrCat(
        ended, " processes ended in ",
        FormatSeconds(
            std::chrono::duration<double>(std::chrono::steady_clock::now() - stopping).count()),
        DescribeDrain(supervisor->state())));
  }
  return kExitOk;
}

// Forks before any thread exists. The child becomes the supervisor in a session of its own; this
// process shows what comes through the pipe until the child closes it (ready) or ends (failed).
int UpCommand::RunDetached(const Context& context, const ClusterPlan& plan) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Fail(absl::UnavailableError("cannot make a pipe"));
  const pid_t child = fork();
  if (child < 0) return Fail(absl::UnavailableError("cannot fork; too many processes?"));
  if (child == 0) {
    close(ends[0]);
    setsid();
    const std::string log = context.state_dir + "/logs/supervisor.log";
    const int log_fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(null_fd, STDIN_FILENO);
    dup2(log_fd, STDOUT_FILENO);
    dup2(log_fd, STDERR_FILENO);
    FILE* const out = fdopen(ends[1], "w");
    Reporter reporter(out);
    const int code = RunHere(context, plan, reporter, ends[1]);
    std::fclose(out);
    std::_Exit(code);
  }
  close(ends[1]);
  StopSignals signals;
  Reporter reporter(stdout);
  LineSource lines(ends[0]);
  std::string error;
  bool ready = false, interrupted = false;
  for (;;) {
    // The child is in a session of its own, where the terminal's Ctrl-C does not reach it.
    if (signals.WaitFor(Duration(0))) {
      interrupted = true;
      kill(child, SIGTERM);
    }
    if (!lines.Wait(kPollMs)) continue;
    const std::optional<std::string> line = lines.Next();
    if (!line) break;
    const std::string& text = *line;
    if (text.starts_with("error: ") || !error.empty()) {
      error += text + "\n";
    } else if (ready || text.starts_with("Ready in ")) {
      ready = true;
      reporter.Line(text);
    } else {
      reporter.Progress(text);
    }
  }
  if (ready && !interrupted) return kExitOk;
  if (ready) error = "error: interrupted when it was just ready; all processes ended\n";
  int status = 0;
  waitpid(child, &status, 0);
  if (error.empty())
    error = "error: the supervisor ended without a word; see " + context.state_dir +
            "/logs/supervisor.log\n";
  std::fputs(error.c_str(), stderr);
  if (interrupted) return kExitInterrupted;
  return WIFEXITED(status) && WEXITSTATUS(status) != 0 ? WEXITSTATUS(status) : kExitFailed;
}

int UpCommand::Run(const Context& context) {
  ClusterPlan plan;
  if (const absl::Status status = Prepare(context, &plan); !status.ok()) return Fail(status);
  for (const std::string& exposure :
       {SecretExposure(context.options.common), context.options.ApiExposure()}) {
    if (!exposure.empty()) std::fprintf(stderr, "warning: %s\n", exposure.c_str());
  }
  if (detach_) return RunDetached(context, plan);
  Reporter reporter(stdout);
  return RunHere(context, plan, reporter, -1);
}

}  // namespace

std::unique_ptr<Command> MakeUpCommand() { return std::make_unique<UpCommand>(); }

}  // namespace conclave::cli
