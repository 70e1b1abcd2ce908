// `conclave-<section> --check-health`: asks the service that runs on this host with the same
// settings whether it is ready. What images and units use for health commands, since nothing else
// is installed beside the program.
//
// Called by StartService, on the main thread of a process of its own.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/options/options.h"

namespace conclave {

inline constexpr std::string_view kCheckHealthFlag = "--check-health";

// Where /readyz of the service is asked on this host: the setting of its HTTP port, with loopback
// for 0.0.0.0 and [::]. INVALID_ARGUMENT naming the setting when it leaves the port open.
absl::StatusOr<std::string> HealthAddress(std::string_view section, const AllOptions& options);

// OK when it is ready. UNAVAILABLE says what it misses, or that nobody answered within two seconds.
absl::Status CheckHealth(std::string_view section, const AllOptions& options);

}  // namespace conclave
