// How the main function of every service begins and ends.
//
// Called on the main thread, once each: StartService after StopSignals is made and before any
// thread, ExitCode last.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/options/options.h"

namespace conclave {

// Reads the settings of the program conclave-<section> ("gateway", "engine", "expert",
// "controller") from flags, environment and file, checks those of its section and starts the log
// under the member's name. False when the command line asked for help or the version, which are
// printed: the program is to end. INVALID_ARGUMENT names the setting and its source.
absl::StatusOr<bool> StartService(std::string_view section, std::string_view description, int argc,
                                  const char* const* argv, AllOptions* options);

// 0, or 1 after "conclave-<section>: error: ..." on standard error.
int ExitCode(std::string_view section, const absl::Status& status);

}  // namespace conclave
