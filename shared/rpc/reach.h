// Who may listen where: an address that other hosts can reach needs a secret, certificates, or the
// operator's word.
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "shared/base/address.h"
#include "shared/net/listen.h"

namespace conclave::rpc {

// FAILED_PRECONDITION when `address` (as net::ParseListen gave it) is beyond loopback and nothing
// guards it: no cluster secret, no demanded client certificates, no --insecure.
absl::Status CheckReach(const net::ListenOptions& options, const std::optional<Address>& address,
                        bool guarded);

}  // namespace conclave::rpc
