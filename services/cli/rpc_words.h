// What gRPC says when it reaches nobody, in words for a person.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace conclave::cli {

// The status of a call to the `service` ("gateway", "controller") at `address`; one that says how
// gRPC failed to get there says instead what is not there. Others are returned as they are.
// `state_dir`: of the cluster that the remedy names.
absl::Status InWords(const absl::Status& status, const std::string& service,
                     const std::string& address, const std::string& state_dir);

}  // namespace conclave::cli
