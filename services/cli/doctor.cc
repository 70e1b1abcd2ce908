// `conclave doctor`: whether this machine, these settings and this model go together, before
// anything is started; with --cluster, whether a running cluster does its work.
#include <cstdio>
#include <fstream>

#include "CLI/CLI.hpp"
#include "nlohmann/json.hpp"
#include "services/cli/checks.h"
#include "services/cli/cluster_checks.h"
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
  const char* summary() const override {
    return "check the machine, the settings and a model, or a cluster";
  }
  void AddFlags(CLI::App& app) override {
    app.add_flag("--json", json_, "print a JSON array");
    app.add_flag("--cluster", cluster_, "check a running cluster instead, as its client");
    app.add_option("--gateway", targets_.gateway, "with --cluster: the gateway's gRPC port")
        ->type_name("HOST:PORT");
    app.add_option("--gateway-http", targets_.gateway_http, "with --cluster: its HTTP(S) port")
        ->type_name("HOST:PORT");
    app.footer(
        "  --model DIR   the checkpoint to check, and its memory before anything is loaded\n"
        "Takes the flags of conclave up, and checks what it would start with them.\n\n"
        "With --cluster: members, models, certificates, clocks, and one short request over HTTP\n"
        "and gRPC. Without addresses it checks the cluster that runs here. Of another one:\n"
        "  --controller-address HOST:PORT     to see its members; --cluster-secret-file FILE\n"
        "  --api-key-file FILE                where the gateway asks for keys\n"
        "  --api-ca-file FILE|system          where it speaks TLS");
  }
  int Run(const Context& context) override;

 private:
  // Of this machine, before anything is started.
  static std::vector<Check> CheckMachine(const Context& context);

  bool json_ = false, cluster_ = false;
  ClusterTargets targets_;
};

std::vector<Check> DoctorCommand::CheckMachine(const Context& context) {
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
  return checks;
}

int DoctorCommand::Run(const Context& context) {
  if (!cluster_ && !(targets_.gateway.empty() && targets_.gateway_http.empty())) {
    return Fail(absl::InvalidArgumentError(
        "--gateway and --gateway-http name parts of a running cluster: give --cluster, too"));
  }
  const std::vector<Check> checks =
      cluster_ ? CheckCluster(context, FindTargets(context, targets_)) : CheckMachine(context);
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
