// conclave-controller: keeps the members' leases and publishes the topology.
#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "services/controller/controller_service.h"
#include "services/controller/leadership.h"
#include "shared/base/log.h"
#include "shared/base/signals.h"
#include "shared/base/status_macros.h"
#include "shared/http/ops_server.h"
#include "shared/options/service_main.h"
#include "shared/rpc/server.h"
#include "shared/rpc/watched_tls.h"

namespace conclave {
namespace {

constexpr char kSection[] = "controller";

// Serves as the cluster's controller until a stop signal (true) or until the Lease is lost (false).
absl::StatusOr<bool> Serve(const AllOptions& options,
                           const controller::ControllerService::Options& service_options,
                           controller::Leadership& leadership, StopSignals& signals,
                           const rpc::WatchedTls& tls, std::atomic<bool>* serving) {
  SteadyClock clock;
  ASSIGN_OR_RETURN(const std::unique_ptr<controller::ControllerService> service,
                   controller::ControllerService::Create(service_options, &clock));
  rpc::ServerOptions server_options;
  server_options.name = "controller";
  server_options.listen = options.controller.listen;
  server_options.secret = service_options.secret;
  server_options.insecure = options.common.insecure;
  server_options.tls = tls.credentials;
  grpc::Service* const services[] = {service.get()};
  ASSIGN_OR_RETURN(const std::unique_ptr<rpc::Server> server,
                   rpc::Server::Start(server_options, services));
  server->SetServing(true);
  *serving = true;
  LogInfo("serving", {{"grpc", server->address()}, {"cluster_id", service->cluster_id()}});

  const bool stopped = leadership.Keep(signals, [&] { return service->term(); });
  *serving = false;
  LogInfo("stopping", {{"members", service->num_live_members()}});
  service->Shutdown();
  server->Drain(std::chrono::seconds(1));
  return stopped;
}

absl::Status Run(int argc, char** argv) {
  StopSignals signals;
  AllOptions options;
  ASSIGN_OR_RETURN(
      const bool serve,
      StartService(kSection,
                   "Keeps the members' leases and decides which worker holds which expert.", argc,
                   argv, &options));
  if (!serve) return absl::OkStatus();

  SteadyClock clock;
  metrics::Registry registry;
  controller::ControllerService::Options service_options;
  service_options.cluster.lease = std::chrono::milliseconds(options.controller.lease_ms);
  service_options.report_period = std::chrono::milliseconds(options.controller.report_period_ms);
  service_options.cluster_id = options.common.cluster_id;
  service_options.state_dir = StateDir(options.common);
  ASSIGN_OR_RETURN(service_options.secret,
                   rpc::ClusterSecret::Load(options.common.cluster_secret_file));
  service_options.registry = &registry;
  ASSIGN_OR_RETURN(
      const rpc::WatchedTls tls,
      rpc::StartClusterTls(options.common.tls, options.common.tls_server_name, &registry));
  ASSIGN_OR_RETURN(
      const std::unique_ptr<controller::Leadership> leadership,
      controller::Leadership::Create({.lease_name = options.controller.lease_name,
                                      .service_account_dir = options.controller.service_account_dir,
                                      .state_dir = service_options.state_dir},
                                     &clock));

  std::atomic<bool> serving{false};
  http::OpsServer::Options ops_options;
  ops_options.listen = options.controller.ops_listen;
  ops_options.readiness = [&] {
    http::Readiness readiness{.ready = serving, .missing = {}};
    if (readiness.ready) return readiness;
    const std::string why_not = leadership->why_not();
    readiness.missing.push_back(why_not.empty() ? "the controller is starting" : why_not);
    return readiness;
  };
  ops_options.registry = &registry;
  ASSIGN_OR_RETURN(const std::unique_ptr<http::OpsServer> ops,
                   http::OpsServer::Start(std::move(ops_options)));
  LogInfo("started", {{"http", ops->address()}});

  while (const std::optional<uint64_t> term = leadership->Wait(signals)) {
    service_options.least_term = *term;
    const absl::StatusOr<bool> stopped =
        Serve(options, service_options, *leadership, signals, tls, &serving);
    if (!stopped.ok() || *stopped) {
      leadership->Release();
      return stopped.status();
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  return conclave::ExitCode(conclave::kSection, conclave::Run(argc, argv));
}
