// Whether a gateway serves: what `conclave doctor --cluster` asks it over HTTP and gRPC.
//
// Shows the key of api_key_file, and speaks TLS where api_ca_file is set.
#pragma once

#include <cstdint>
#include <vector>

#include "services/cli/cluster_checks.h"

namespace conclave::cli {

// Readiness, certificate and clock by HTTP, and one short greedy request over HTTP and over gRPC,
// whose answers have to be the same. Takes at most about a minute.
std::vector<Check> CheckGateway(const Context& context, const ClusterTargets& targets);

// The clock of the gateway beside the one here, in seconds; warns beyond 5 s.
Check CheckClock(int64_t gateway_unix_s, int64_t here_unix_s);

}  // namespace conclave::cli
