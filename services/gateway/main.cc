// conclave-gateway: the API. Text becomes ids here, engines are chosen here, stop strings end here.
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "services/gateway/engine_client.h"
#include "services/gateway/frontend.h"
#include "services/gateway/grpc_service.h"
#include "services/gateway/http_api.h"
#include "shared/base/address.h"
#include "shared/base/drain_report.h"
#include "shared/base/limits.h"
#include "shared/base/log.h"
#include "shared/base/signals.h"
#include "shared/base/status_macros.h"
#include "shared/h2/server.h"
#include "shared/http/ops_server.h"
#include "shared/http/server.h"
#include "shared/net/tls_context.h"
#include "shared/options/service_main.h"
#include "shared/placement/member.h"
#include "shared/rpc/watched_tls.h"
#include "shared/tls/certificate_watch.h"
#include "shared/weights/model_files.h"

namespace conclave {
namespace {

constexpr char kSection[] = "gateway";

using gateway::Frontend;

constexpr auto kReadinessPeriod = std::chrono::milliseconds(200);
constexpr auto kTrimPeriod = std::chrono::seconds(10);

// Bodies and messages that are large have memory of their own, which goes back to the system with
// them: in the heap, what comes in between would keep the holes they leave.
void KeepLargeBlocksApart() { mallopt(M_MMAP_THRESHOLD, 64 << 10); }

// A burst of calls takes memory that the allocator keeps when it is free again: gives it back.
void TrimMemory() {
  constexpr size_t kMuch = 64 << 20;
  if (mallinfo2().fordblks > kMuch) malloc_trim(0);
}

// The address other processes reach a port by: the bound one, with the advertised host if there is
// one.
absl::StatusOr<std::string> Advertised(const std::string& bound, const std::string& host) {
  if (host.empty()) return bound;
  ASSIGN_OR_RETURN(Address address, ParseAddress(bound));
  address.host = host;
  return address.ToString();
}

// TLS for the API's clients; its watch, which comes last, writes to the others.
struct ApiTls {
  std::shared_ptr<net::TlsContext> grpc, http;  // null: no TLS
  std::unique_ptr<tls::CertificateWatch> watch;
};

absl::StatusOr<ApiTls> StartApiTls(const tls::CertificateFiles& files,
                                   metrics::Registry* registry) {
  ApiTls api;
  if (!files.configured()) return api;
  ASSIGN_OR_RETURN(const tls::Certificates certificates, tls::ReadCertificates(files));
  api.grpc = std::make_shared<net::TlsContext>(net::Protocol::kHttp2);
  api.http = std::make_shared<net::TlsContext>(net::Protocol::kHttp1);
  RETURN_IF_ERROR(api.grpc->Use(certificates));
  RETURN_IF_ERROR(api.http->Use(certificates));
  ASSIGN_OR_RETURN(api.watch,
                   tls::CertificateWatch::Start(
                       files, "api", registry,
                       [grpc = api.grpc, http = api.http](const tls::Certificates& fresh) {
                         absl::Status used = grpc->Use(fresh);
                         used.Update(http->Use(fresh));
                         if (!used.ok()) {
                           LogError("the API goes on with the certificate of before",
                                    {{"error", std::string(used.message())}});
                         }
                       }));
  return api;
}

// gRPC connections carry many calls each: so many fewer of them are taken than of HTTP's.
constexpr int32_t kHttpPerGrpc = 16;

// As many as are asked for and the limit of open files allows.
int32_t MostConnections(int32_t wanted) {
  const int64_t other_files = 512 + wanted / kHttpPerGrpc;  // engines, logs, epoll; gRPC's clients
  RaiseOpenFiles();
  const int64_t files = ReadProcessLimits().open_files;
  const int64_t room = std::max<int64_t>(16, files - other_files);
  if (files == 0 || room >= wanted) return wanted;
  LogWarning("the limit of open files allows fewer connections than gateway.max_connections",
             {{"connections", room}, {"wanted", wanted}, {"open_files", files}});
  return static_cast<int32_t>(room);
}

http::ServerOptions HttpOptions(const GatewayOptions& options) {
  http::ServerOptions http;
  http.max_connections = MostConnections(options.max_connections);
  http.listen = options.http_listen;
  http.max_body_bytes = static_cast<size_t>(options.max_body.bytes);
  for (const absl::string_view name :
       absl::StrSplit(options.allowed_hosts, ',', absl::SkipWhitespace())) {
    http.access.allowed_hosts.push_back(absl::AsciiStrToLower(absl::StripAsciiWhitespace(name)));
  }
  if (!options.advertise.empty())
    http.access.allowed_hosts.push_back(absl::AsciiStrToLower(options.advertise));
  return http;
}

absl::StatusOr<std::shared_ptr<const gateway::TextModel>> LoadModel(const CommonOptions& options) {
  if (options.model.empty()) {
    return absl::InvalidArgumentError(
        "no model given: set --model to a checkpoint folder, a packed file, or org/name in the "
        "local "
        "Hugging Face cache");
  }
  ASSIGN_OR_RETURN(const std::filesystem::path dir, weights::ResolveModel(options.model));
  return gateway::TextModel::Load(
      dir, options.served_name.empty() ? weights::DefaultServedName(dir) : options.served_name);
}

absl::StatusOr<gateway::RequestSchedulerOptions> SchedulerOptions(const GatewayOptions& options) {
  gateway::RequestSchedulerOptions scheduler;
  scheduler.max_running = options.max_running;
  scheduler.max_waiting = options.max_waiting;
  scheduler.first_token_timeout = std::chrono::seconds(options.first_token_timeout_s);
  scheduler.queue.aging = std::chrono::seconds(options.queue_aging_s);
  const auto weights = ParseClassWeights(options.class_weights, scheduler.queue.class_weights);
  if (!weights.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("gateway.class_weights: ", weights.status().message()));
  }
  scheduler.queue.class_weights = *weights;
  return scheduler;
}

absl::Status Run(int argc, char** argv) {
  StopSignals signals;
  KeepLargeBlocksApart();
  AllOptions options;
  ASSIGN_OR_RETURN(
      const bool serve,
      StartService(kSection,
                   "Serves the gRPC and the OpenAI-compatible HTTP API over the cluster's engines.",
                   argc, argv, &options));
  if (!serve) return absl::OkStatus();
  ASSIGN_OR_RETURN(const rpc::ClusterSecret secret,
                   rpc::ClusterSecret::Load(options.common.cluster_secret_file));
  ASSIGN_OR_RETURN(const std::shared_ptr<const gateway::TextModel> model,
                   LoadModel(options.common));

  SteadyClock clock;
  metrics::Registry registry;
  ASSIGN_OR_RETURN(
      const rpc::WatchedTls cluster_tls,
      rpc::StartClusterTls(options.common.tls, options.common.tls_server_name, &registry));
  ASSIGN_OR_RETURN(const ApiTls api_tls, StartApiTls(options.gateway.tls, &registry));
  Frontend::Options frontend_options;
  ASSIGN_OR_RETURN(frontend_options.scheduler, SchedulerOptions(options.gateway));
  ASSIGN_OR_RETURN(const std::unique_ptr<gateway::KeyStore> keys,
                   gateway::KeyStore::Open(options.gateway.keys_file, &clock, &registry));
  frontend_options.keys = keys.get();
  frontend_options.cache.capacity_bytes = static_cast<size_t>(options.gateway.cache_memory.bytes);
  frontend_options.cache.ttl = std::chrono::seconds(options.gateway.cache_ttl_s);
  frontend_options.cluster_secret = secret.bytes();
  const auto cluster = std::make_shared<rpc::ClusterId>(options.common.cluster_id);
  frontend_options.link_factory = [&](const std::string& engine, const std::string& address,
                                      gateway::EngineListener* listener) {
    return gateway::MakeEngineClient(
        {.address = address, .secret = secret, .cluster = cluster, .tls = cluster_tls.credentials},
        options.gateway.name, engine, listener);
  };
  frontend_options.registry = &registry;
  frontend_options.clock = &clock;
  Frontend frontend(frontend_options, model);

  h2::ServerOptions grpc_options;
  grpc_options.name = options.gateway.name;
  grpc_options.listen = options.gateway.grpc_listen;
  grpc_options.listen_setting = "--grpc-listen";
  // Its clients show keys: AllOptions::Validate says where it may be.
  grpc_options.guarded = true;
  grpc_options.tls = api_tls.grpc;
  grpc_options.max_connection_age = std::chrono::seconds(options.gateway.grpc_connection_age_s);
  grpc_options.max_receive_bytes = static_cast<size_t>(options.gateway.max_body.bytes);
  grpc_options.max_connections = std::max(16, options.gateway.max_connections / kHttpPerGrpc);
  grpc_options.check_sender = [&frontend](std::string_view authorization) {
    return frontend.Authenticate(authorization).status();
  };
  ASSIGN_OR_RETURN(const std::unique_ptr<h2::Server> grpc_server,
                   h2::Server::Start(grpc_options, {gateway::InferenceService(&frontend)}));
  http::ServerOptions http_options = HttpOptions(options.gateway);
  http_options.tls = api_tls.http;
  http_options.check_sender = [&frontend](std::string_view authorization) {
    return gateway::CheckSender(frontend, authorization);
  };
  ASSIGN_OR_RETURN(
      const std::unique_ptr<http::Server> http_server,
      http::Server::Start(std::move(http_options), gateway::HttpRoutes(&frontend, {})));
  ASSIGN_OR_RETURN(
      const std::unique_ptr<http::OpsServer> ops,
      http::OpsServer::Start({.listen = options.gateway.ops_listen,
                              .readiness = [&frontend] { return frontend.readiness(); },
                              .registry = &registry}));

  std::atomic<bool> draining{false};
  placement::Membership::Options member;
  member.controller = options.common.controller;
  member.secret = secret;
  member.tls = cluster_tls.credentials;
  member.cluster = cluster;
  member.name = options.gateway.name;
  member.kind = placement::MemberKind::kGateway;
  ASSIGN_OR_RETURN(member.address, Advertised(grpc_server->address(), options.gateway.advertise));
  ASSIGN_OR_RETURN(member.ops_address, Advertised(ops->address(), options.gateway.advertise));
  member.state_dir = StateDir(options.common);
  member.status = [&] {
    placement::MemberStatus status;
    const http::Readiness readiness = frontend.readiness();
    status.state = draining          ? placement::MemberState::kDraining
                   : readiness.ready ? placement::MemberState::kReady
                                     : placement::MemberState::kLoading;
    if (!readiness.missing.empty()) status.note = readiness.missing.front();
    status.gateway.running = frontend.num_running();
    return status;
  };
  member.on_cluster = [&](const placement::ClusterView& view) { frontend.UpdateCluster(view); };
  member.on_note = [&](const std::string& note) { frontend.SetNote(note); };
  ASSIGN_OR_RETURN(const std::unique_ptr<placement::Membership> membership,
                   placement::Membership::Start(std::move(member)));
  LogInfo("serving", {{"http", http_server->address()},
                      {"grpc", grpc_server->address()},
                      {"ops", ops->address()},
                      {"model", model->name()}});

  bool serving = false;
  TimePoint trimmed = clock.Now();
  while (!signals.WaitFor(kReadinessPeriod)) {
    keys->Refresh();
    if (clock.Now() - trimmed >= kTrimPeriod) {
      TrimMemory();
      trimmed = clock.Now();
    }
    const http::Readiness now = frontend.readiness();
    if (now.ready == serving) continue;
    serving = now.ready;
    if (serving) {
      LogInfo("ready");
    } else {
      LogWarning("not ready any more", {{"missing", absl::StrJoin(now.missing, "; ")}});
    }
    grpc_server->SetServing(serving);
    membership->ReportNow();
  }
  LogInfo("stopping", {{"running", frontend.num_running()}});
  draining = true;
  membership->ReportNow();
  grpc_server->SetServing(false);
  if (options.gateway.lame_duck_seconds > 0) {
    frontend.AnnounceEnd();
    http_server->EndAfterAnswers();
    const TimePoint end = clock.Now() + std::chrono::seconds(options.gateway.lame_duck_seconds);
    // Who revokes a key now is heard as before.
    while (clock.Now() < end && !signals.WaitFor(kReadinessPeriod)) keys->Refresh();
  }
  const auto grace = std::chrono::seconds(options.common.drain_seconds);
  // New requests are refused with UNAVAILABLE from here; then connections end one after the other.
  const Frontend::Drained drained = frontend.Drain(grace);
  if (drained.cut_off > 0) {
    LogWarning("requests were cut off",
               {{"requests", drained.cut_off}, {"drain_seconds", options.common.drain_seconds}});
  }
  http_server->Drain(std::chrono::seconds(1));
  membership->Leave();
  grpc_server->Drain(std::chrono::seconds(1));
  if (const absl::Status told = WriteDrainReport(
          DrainReportPath(StateDir(options.common), options.gateway.name),
          {.pid = getpid(), .running = drained.running, .cut_off = drained.cut_off});
      !told.ok()) {
    LogWarning("the supervisor will not know what was drained",
               {{"error", std::string(told.message())}});
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  return conclave::ExitCode(conclave::kSection, conclave::Run(argc, argv));
}
