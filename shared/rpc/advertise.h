// The address by which other processes of the cluster reach a server of this one.
//
// Called once at start.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace conclave::rpc {

// `bound`: the address really bound, host:port or unix:/path. `advertise`: the host that the user
// set, or empty. A wildcard address is replaced by the address of the interface that leads to
// `controller` (host:port). UNAVAILABLE tells to set advertise when there is none.
absl::StatusOr<std::string> AdvertisedAddress(const std::string& bound,
                                              const std::string& advertise,
                                              const std::string& controller);

}  // namespace conclave::rpc
