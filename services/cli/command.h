// The commands of `conclave`: each is one class in one file, made by one function below.
//
// main.cc parses the command line, fills a Context, and runs one command on the main thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "shared/options/options.h"

namespace CLI {
class App;
}

namespace conclave::cli {

// What a program may conclude from `conclave` (docs/operations.md, "Exit codes").
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;      // the request failed, or --expect found another digest
inline constexpr int kExitUsage = 2;       // a wrong flag, setting or argument
inline constexpr int kExitNotRunning = 3;  // no cluster runs here
inline constexpr int kExitInterrupted = 130;  // Ctrl-C, as shells count it

// The settings as all sources give them.
struct Context {
  AllOptions options;
  std::vector<Settings::Row> rows;
  std::string config_file;  // empty: none
  std::string state_dir;
};

class Command {
 public:
  virtual ~Command() = default;
  virtual const char* name() const = 0;
  virtual const char* summary() const = 0;
  // Adds the flags and arguments of this command's own.
  virtual void AddFlags(CLI::App& app) = 0;
  // Returns the exit code. Called once, after the flags are parsed.
  virtual int Run(const Context& context) = 0;
};

std::unique_ptr<Command> MakeUpCommand();
std::unique_ptr<Command> MakeDownCommand();
std::unique_ptr<Command> MakePsCommand();
std::unique_ptr<Command> MakeLogsCommand();
std::unique_ptr<Command> MakeEventsCommand();
std::unique_ptr<Command> MakeRunCommand();
std::unique_ptr<Command> MakeChatCommand();
std::unique_ptr<Command> MakeDoctorCommand();
std::unique_ptr<Command> MakeBenchCommand();
std::unique_ptr<Command> MakeConfigCommand();
std::unique_ptr<Command> MakeKeyCommand();
std::unique_ptr<Command> MakePackCommand();
std::unique_ptr<Command> MakeEvalCommand();

// Prints "error: CODE: message" on standard error and returns kExitFailed (kExitUsage for
// INVALID_ARGUMENT, kExitNotRunning for FAILED_PRECONDITION, which says that no cluster runs).
int Fail(const absl::Status& status);

// `code`, or that of a failure if what was printed did not reach the file that standard output is.
// (A reader that has gone has seen what it wanted.)
int WithOutputWritten(int code);

}  // namespace conclave::cli
