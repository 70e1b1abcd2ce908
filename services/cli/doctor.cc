// `conclave doctor`: whether this machine, these settings and this model go together, before
// anything is started.
#include <cstdio>
#include <fstream>

#include "CLI/CLI.hpp"
#include "nlohmann/json.hpp"
#include "services/cli/checks.h"
#include "services/cli/command.h"
#include "services/cli/table.h"

namespace conclave::cli {
namespace {

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return "ok";
    case Verdict::kWarn:
      return "warn";
    case Verdict::kFail:
      return "FAIL";
  }
  return "";
}

std::string CpuFlags() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with("flags")) return line.substr(line.find(':') + 1);
  }
  return "";
}

class DoctorCommand final : public Command {
 public:
  const char* name() const override { return "doctor"; }
  const char* summary() const override { return "check the machine, the settings and a model"; }
  void AddFlags(CLI::App& app) override {
    app.add_flag("--json", json_, "print a JSON array");
    app.footer(
        "  --model DIR   the checkpoint to check, and its memory before anything is loaded\n"
        "Takes the flags of conclave up, and checks what it would start with them.");
  }
  int Run(const Context& context) override;

 private:
  bool json_ = false;
};

int DoctorCommand::Run(const Context& context) {
  std::vector<Check> checks;
  if (!context.options.common.model.empty()) {
    checks = CheckModel(context);
  } else {
    checks.push_back(CheckMemory());
  }
  checks.push_back(CheckCpu(CpuFlags()));
  checks.push_back(CheckCores());
  checks.push_back(CheckAllSettings(context));
  checks.push_back(CheckPorts(context));
  checks.push_back(CheckLimits(ReadProcessLimits()));
  checks.push_back(CheckPrograms());
  checks.push_back(CheckStateDir(context.state_dir));

  bool failed = false;
  nlohmann::json list = nlohmann::json::array();
  std::vector<std::vector<std::string>> table;
  for (const Check& check : checks) {
    failed |= check.verdict == Verdict::kFail;
    list.push_back({{"check", check.name},
                    {"verdict", VerdictName(check.verdict)},
                    {"found", check.found},
                    {"do", check.remedy}});
    table.push_back({check.name, VerdictName(check.verdict), check.found});
    if (!check.remedy.empty()) table.push_back({"", "do", check.remedy});
  }
  std::printf(
      "%s",
      json_ ? (list.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n").c_str()
            : FormatTable(table).c_str());
  return failed ? kExitFailed : kExitOk;
}

}  // namespace

std::unique_ptr<Command> MakeDoctorCommand() { return std::make_unique<DoctorCommand>(); }

}  // namespace conclave::cli
