// Which processes a local cluster has, with their programs, flags and ports. Pure but for looking
// at which ports are free.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/command.h"

namespace conclave::cli {

struct PlannedProcess {
  std::string name;     // "engine-0"
  std::string kind;     // "engine"
  std::string program;  // "conclave-engine"
  std::vector<std::string> flags;
  std::string address;  // gRPC, but of the gateway HTTP
  std::string ops_address;
};

struct ClusterPlan {
  std::vector<PlannedProcess>
      processes;  // in the order of starting: controller, workers, engines, gateway
  std::string cluster_id;
  std::string http_address;
  std::string grpc_address;
  std::string controller_address;
  std::string gateway_ops_address;
  std::string cluster_secret_file;  // absolute; empty: none
  tls::CertificateFiles tls;        // absolute paths
  std::string tls_server_name;
  bool api_tls = false;  // whether the gateway asks its clients for TLS
};

// What every process of a local cluster would refuse of its settings, before any is started: the
// ranges and addresses of all sections, the secret's file, and the certificates.
absl::Status CheckSettings(const Context& context);

// The cluster id is the setting, else that of the cluster that was in the state folder before, else
// drawn. Ports lie at fixed distances above up.base_port (8000: gateway HTTP; +1 gateway gRPC, +10
// controller, +20 engines, +30 workers, +1000 more their ops ports), but where a listen setting is
// given. A busy port is INVALID_ARGUMENT naming the port, its owner and the remedy; with
// up.auto_ports the nearest free one is taken. Threads are shared out: the processes of a kind
// split the `cores`, unless a setting says otherwise. Flags that `up` was given are handed on.
absl::StatusOr<ClusterPlan> PlanCluster(const Context& context, int cores);

}  // namespace conclave::cli
