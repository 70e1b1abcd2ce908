// What `conclave doctor --cluster` looks at: a running cluster, as its clients and its operator see
// it.
#pragma once

#include <string>
#include <vector>

#include "services/cli/checks.h"
#include "services/cli/command.h"
#include "services/cli/controller_client.h"

namespace conclave::cli {

// Addresses as host:port; empty: not looked at.
struct ClusterTargets {
  std::string gateway;       // gRPC
  std::string gateway_http;  // HTTP or HTTPS
  std::string controller;
};

// What the flags --gateway and --gateway-http name, and the setting controller_address; without
// either flag the cluster that runs here, if one does.
ClusterTargets FindTargets(const Context& context, const ClusterTargets& named);

// All of the checks below that the targets allow, from the controller to an answer.
std::vector<Check> CheckCluster(const Context& context, const ClusterTargets& targets);

// Members' states, versions and fingerprints, and that every model has engines and every expert a
// live worker.
std::vector<Check> CheckMembers(const ClusterMembers& members);

// Of the certificate that `what` shows; fails when it expires within the hour, warns within 14
// days.
Check CheckExpiry(const std::string& name, const std::string& what, int64_t expires_unix_s,
                  int64_t now_unix_s);

Check SkippedCheck(const std::string& name, const std::string& why);

}  // namespace conclave::cli
