#include "shared/options/service_main.h"

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shared/base/limits.h"
#include "shared/base/log.h"
#include "shared/base/status_macros.h"
#include "shared/options/health_check.h"

namespace conclave {
namespace {

constexpr char kCheckHealthHelp[] =
    "\n\n--check-health asks the one that runs on this host with the same settings whether it is\n"
    "ready, and ends with 0 if it is.";

std::string ProgramOf(std::string_view section) { return "conclave-" + std::string(section); }

std::string MemberNameOf(std::string_view section, const AllOptions& options) {
  if (section == "gateway") return options.gateway.name;
  if (section == "engine") return options.engine.name;
  if (section == "expert") return options.expert.name;
  return std::string(section);
}

}  // namespace

absl::StatusOr<bool> StartService(std::string_view section, std::string_view description, int argc,
                                  const char* const* argv, AllOptions* options) {
  RETURN_IF_ERROR(CheckProcessLimits(ReadProcessLimits(), kServiceAddressSpace, kServiceOpenFiles));
  std::vector<const char*> words(argv, argv + argc);
  const bool check_health =
      std::erase_if(words, [](std::string_view word) { return word == kCheckHealthFlag; }) > 0;
  Settings settings(ProgramOf(section), std::string(section),
                    absl::StrCat(std::string(description), kCheckHealthHelp));
  options->Bind(settings);
  bool exit_now = false;
  RETURN_IF_ERROR(settings.Parse(static_cast<int>(words.size()), words.data(), &exit_now));
  if (exit_now) return false;
  RETURN_IF_ERROR(NameSource(options->Validate(section), settings.Rows()));
  if (check_health) {
    RETURN_IF_ERROR(CheckHealth(section, *options));
    return false;
  }
  RETURN_IF_ERROR(StartLog(MemberNameOf(section, *options), options->common.log_level,
                           options->common.log_format));
  if (const std::string exposure = SecretExposure(options->common); !exposure.empty()) {
    LogWarning(exposure);
  }
  if (section == "gateway") {
    if (const std::string exposure = options->ApiExposure(); !exposure.empty()) {
      LogWarning(exposure);
    }
  }
  return true;
}

int ExitCode(std::string_view section, const absl::Status& status) {
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s: error: %s\n", ProgramOf(section).c_str(),
               std::string(status.message()).c_str());
  return 1;
}

}  // namespace conclave
