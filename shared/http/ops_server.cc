#include "shared/http/ops_server.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "shared/base/status_macros.h"
#include "shared/base/version.h"
#include "shared/http/ops_routes.h"
#include "shared/http/server.h"

namespace conclave::http {

std::vector<Server::Route> HealthRoutes(std::function<Readiness()> readiness) {
  const auto livez = [](const std::shared_ptr<Exchange>& exchange) {
    exchange->Respond({.status = 200, .content_type = "text/plain", .body = "ok\n", .headers = {}});
  };
  const auto readyz = [readiness =
                           std::move(readiness)](const std::shared_ptr<Exchange>& exchange) {
    const Readiness now = readiness();
    nlohmann::ordered_json body = {{"ready", now.ready}, {"missing", now.missing}};
    if (!now.notes.empty()) body["notes"] = now.notes;
    exchange->Respond(
        {.status = now.ready ? 200 : 503,
         .content_type = "application/json",
         .body = body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n",
         .headers = {}});
  };
  return {{"GET", "/livez", livez}, {"GET", "/readyz", readyz}};
}

std::vector<Server::Route> OpsRoutes(const std::function<Readiness()>& readiness,
                                     metrics::Registry* registry) {
  registry
      ->GetGauge("conclave_build_info",
                 {{"version", std::string(Version())}, {"commit", std::string(Commit())}})
      .Set(1);
  std::vector<Server::Route> routes = HealthRoutes(readiness);
  routes.push_back({"GET", "/metrics", [readiness, registry](const std::shared_ptr<Exchange>& e) {
                      registry->GetGauge("conclave_ready").Set(readiness().ready ? 1 : 0);
                      e->Respond({.status = 200,
                                  .content_type = "text/plain; version=0.0.4; charset=utf-8",
                                  .body = registry->Expose(),
                                  .headers = {}});
                    }});
  return routes;
}

struct OpsServer::State {
  std::unique_ptr<Server> server;
};

absl::StatusOr<std::unique_ptr<OpsServer>> OpsServer::Start(Options options) {
  ServerOptions server_options;
  server_options.name = "ops server";
  server_options.listen = options.listen;
  server_options.listen_setting = "--ops-listen";
  server_options.max_body_bytes = 1 << 10;
  server_options.max_connections = 64;
  server_options.num_workers = 1;
  auto state = std::make_unique<State>();
  ASSIGN_OR_RETURN(state->server,
                   Server::Start(std::move(server_options),
                                 OpsRoutes(std::move(options.readiness), options.registry)));
  return std::unique_ptr<OpsServer>(new OpsServer(std::move(state)));
}

OpsServer::OpsServer(std::unique_ptr<State> state) : state_(std::move(state)) {}
OpsServer::~OpsServer() = default;

std::string OpsServer::address() const { return state_->server->address(); }

}  // namespace conclave::http
