#include "shared/rpc/server.h"

#include <atomic>
#include <mutex>
#include <optional>
#include <vector>

#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "shared/base/address.h"
#include "shared/base/status_macros.h"
#include "shared/net/listen.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/grpc_locks.h"
#include "shared/rpc/grpc_log.h"
#include "shared/rpc/reach.h"

namespace conclave::rpc {
namespace {

// A client whose host vanished frees its calls after at most the two together.
constexpr int kServerKeepaliveTimeMs = 20'000;
constexpr int kServerKeepaliveTimeoutMs = 10'000;
// From a connection's beginning to its first settings, with TLS in between.
constexpr int kHandshakeTimeoutMs = 10'000;
constexpr int kMaxThreads = 64;  // for methods that are synchronous
constexpr char kListenSetting[] = "--listen";

}  // namespace

struct Server::State {
  std::shared_ptr<const TlsCredentials> tls;  // read by each handshake
  std::vector<std::string> health_names;
  std::unique_ptr<grpc::Server> server;
  std::string address;
  int port = 0;
  std::atomic<bool> drained{false};
};

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      std::span<grpc::Service* const> services) {
  const net::ListenOptions listen = {
      .name = options.name, .listen = options.listen, .setting = kListenSetting};
  ASSIGN_OR_RETURN(const std::optional<Address> address, net::ParseListen(listen));
  RETURN_IF_ERROR(CheckReach(
      listen, address, options.secret.configured() || options.tls != nullptr || options.insecure));

  RouteGrpcLog();
  SpareLockGraph();
  static std::once_flag plugins;
  std::call_once(plugins, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });

  grpc::ServerBuilder builder;
  int port = -1;
  builder.AddListeningPort(
      options.listen,
      options.tls != nullptr ? options.tls->ForServer() : grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_receive_bytes));
  builder.SetMaxSendMessageSize(static_cast<int>(kMaxMessageBytes));
  // Without this, a second process could bind the same port and take half of the connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             static_cast<int>(kPingIntervalAccepted.count()));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kServerKeepaliveTimeMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kServerKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES,
                             static_cast<int>(kStreamWindowBytes));
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  grpc::ResourceQuota quota(options.name);
  quota.SetMaxThreads(kMaxThreads);
  builder.SetResourceQuota(quota);
  auto state = std::make_unique<State>();
  state->tls = options.tls;
  state->health_names = options.health_names;
  for (grpc::Service* service : services) builder.RegisterService(service);
  state->server = builder.BuildAndStart();
  if (state->server == nullptr || port < 0 || (port == 0 && address.has_value())) {
    return net::CannotListen(listen, address);
  }
  state->port = address.has_value() ? port : 0;
  state->address = address.has_value() ? Address{address->host, port}.ToString() : options.listen;
  std::unique_ptr<Server> server(new Server(std::move(state)));
  server->SetServing(false);
  return server;
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() { Drain(std::chrono::milliseconds(0)); }

const std::string& Server::address() const { return state_->address; }
int Server::port() const { return state_->port; }

void Server::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* const health = state_->server->GetHealthCheckService();
  for (const std::string& name : state_->health_names) health->SetServingStatus(name, serving);
  health->SetServingStatus("", serving);
}

void Server::Drain(std::chrono::milliseconds grace) {
  if (state_->drained.exchange(true)) return;
  SetServing(false);
  state_->server->Shutdown(std::chrono::system_clock::now() + grace);
  state_->server->Wait();
}

}  // namespace conclave::rpc
