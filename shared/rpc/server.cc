#include "shared/rpc/server.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "shared/base/address.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/grpc_locks.h"
#include "shared/rpc/grpc_log.h"

namespace conclave::rpc {
namespace {

// A client whose host vanished frees its calls after at most the two together.
constexpr int kServerKeepaliveTimeMs = 20'000;
constexpr int kServerKeepaliveTimeoutMs = 10'000;

constexpr std::string_view kUnixPrefix = "unix:";

// host:port, or nothing for a Unix socket.
absl::StatusOr<std::optional<Address>> ParseListen(const ServerOptions& options) {
  if (options.listen.starts_with(kUnixPrefix)) {
    if (options.listen.size() > kUnixPrefix.size()) return std::optional<Address>();
    return absl::InvalidArgumentError(
        absl::StrCat(options.listen_setting, ": \"unix:\" has no path; write it as unix:/path"));
  }
  absl::StatusOr<Address> address = ParseAddress(options.listen);
  if (address.ok()) return std::optional<Address>(*std::move(address));
  return absl::InvalidArgumentError(
      absl::StrCat(options.listen_setting, ": ", address.status().message(), ", or as unix:/path"));
}

// gRPC says only that it could not bind; binding once more by hand says why.
std::string WhyNotBound(const Address& address) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int code =
          getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
      code != 0) {
    return absl::StrCat("host \"", address.host, "\" is not known (", gai_strerror(code), ")");
  }
  std::string reason = "the system refused it";
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    const int fd = socket(entry->ai_family, entry->ai_socktype | SOCK_CLOEXEC, entry->ai_protocol);
    if (fd < 0) continue;
    const int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, entry->ai_addr, entry->ai_addrlen) != 0 || listen(fd, 1) != 0) {
      if (errno == EADDRINUSE) {
        reason = absl::StrCat("port ", address.port, " is in use by another process");
      } else if (errno == EADDRNOTAVAIL) {
        reason = absl::StrCat("no network interface of this host has the address ", address.host);
      } else if (errno == EACCES) {
        reason = absl::StrCat("port ", address.port, " needs privileges (ports below 1024 do)");
      } else {
        reason = std::strerror(errno);
      }
    }
    close(fd);
  }
  freeaddrinfo(found);
  return reason;
}

absl::Status CheckReach(const ServerOptions& options, const std::optional<Address>& address) {
  if (!address.has_value() || IsLoopback(address->host) || options.secret.configured() ||
      (options.tls != nullptr && options.client_certificates == ClientCertificates::kDemanded) ||
      options.insecure) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat(options.name, " would listen on ", options.listen,
                   ", which other hosts can reach, without a cluster secret: set "
                   "cluster_secret_file to the file that all processes of the cluster share, "
                   "listen on 127.0.0.1, or pass --insecure if the "
                   "network is trusted"));
}

}  // namespace

struct Server::State {
  std::vector<std::string> health_names;
  std::unique_ptr<grpc::Server> server;
  std::string address;
  int port = 0;
  std::atomic<bool> drained{false};
};

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      std::span<grpc::Service* const> services) {
  ASSIGN_OR_RETURN(const std::optional<Address> address, ParseListen(options));
  RETURN_IF_ERROR(CheckReach(options, address));

  RouteGrpcLog();
  SpareLockGraph();
  static std::once_flag plugins;
  std::call_once(plugins, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });

  grpc::ServerBuilder builder;
  int port = -1;
  builder.AddListeningPort(options.listen,
                           options.tls != nullptr
                               ? options.tls->ForServer(options.client_certificates)
                               : grpc::InsecureServerCredentials(),
                           &port);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_receive_bytes));
  builder.SetMaxSendMessageSize(static_cast<int>(kMaxMessageBytes));
  // Without this, a second process could bind the same port and take half of the connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             static_cast<int>(kPingIntervalAccepted.count()));
  if (options.max_connection_age.count() > 0) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                               static_cast<int>(options.max_connection_age.count()));
  }
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kServerKeepaliveTimeMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kServerKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
                             static_cast<int>(options.handshake_timeout.count()));
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES,
                             static_cast<int>(kStreamWindowBytes));
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  grpc::ResourceQuota quota(options.name);
  quota.SetMaxThreads(options.max_threads);
  builder.SetResourceQuota(quota);
  auto state = std::make_unique<State>();
  state->health_names = options.health_names;
  for (grpc::Service* service : services) builder.RegisterService(service);
  state->server = builder.BuildAndStart();
  if (state->server == nullptr || port < 0 || (port == 0 && address.has_value())) {
    return absl::UnavailableError(absl::StrCat(
        options.name, " cannot listen on ", options.listen, ": ",
        address.has_value() ? WhyNotBound(*address) : "the socket cannot be made there",
        "; stop the other process or choose another address with ", options.listen_setting));
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
  for (const std::string& name : state_->health_names) SetServing(name, serving);
  SetServing("", serving);
}

void Server::SetServing(std::string_view service, bool serving) {
  state_->server->GetHealthCheckService()->SetServingStatus(std::string(service), serving);
}

void Server::Drain(std::chrono::milliseconds grace) {
  if (state_->drained.exchange(true)) return;
  SetServing(false);
  state_->server->Shutdown(std::chrono::system_clock::now() + grace);
  state_->server->Wait();
}

}  // namespace conclave::rpc
