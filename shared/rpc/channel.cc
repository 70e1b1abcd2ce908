#include "shared/rpc/channel.h"

#include <cstdlib>

#include "absl/strings/match.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "shared/rpc/grpc_locks.h"
#include "shared/rpc/grpc_log.h"

namespace conclave::rpc {
namespace {

// gRPC 1.51 connects again to a server that was not there only while somebody polls for it: calls,
// which fail at once meanwhile, a gRPC server in the same process, or this timer, whose five
// seconds are more than an attempt may take. Set before main, and so before gRPC reads it.
[[maybe_unused]] const int poll_interval =
    setenv("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "100", 0);

// Whoever holds the channel, a stub among them, holds the certificates that its next connection
// reads.
std::shared_ptr<grpc::Channel> Connect(const ChannelOptions& options) {
  if (options.tls == nullptr) {
    return grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(),
                                     MakeChannelArguments(options));
  }
  struct Holder {
    std::shared_ptr<const TlsCredentials> tls;
    std::shared_ptr<grpc::Channel> channel;
  };
  const auto holder = std::make_shared<Holder>(
      options.tls, grpc::CreateCustomChannel(options.address, options.tls->ForChannel(),
                                             MakeChannelArguments(options)));
  return {holder, holder->channel.get()};
}

}  // namespace

bool NeverSent(const grpc::ClientContext& context, const grpc::Status& status) {
  // gRPC 1.51 says it here alone: the step that puts the head into the connection's buffer failed.
  return status.error_code() == grpc::StatusCode::UNAVAILABLE &&
         absl::StrContains(context.debug_error_string(),
                           "completing operation: send_initial_metadata_finished");
}

grpc::ChannelArguments MakeChannelArguments(const ChannelOptions& options) {
  RouteGrpcLog();
  SpareLockGraph();
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectBackoffFirst.count());
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectBackoffMost.count());
  // Despite its name, this is how long one attempt to connect may take.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeout.count());
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTime.count());
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeout.count());
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // no limit
  // Without a policy of retries, which nobody sets, only what no server has seen is sent again.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, options.resend_unseen ? 1 : 0);
  // A fixed window, so no probing of the bandwidth-delay product.
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kStreamWindowBytes);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  // The environment's http_proxy is for the world outside of the cluster.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  if (options.tls != nullptr && !options.tls->server_name().empty()) {
    arguments.SetSslTargetNameOverride(options.tls->server_name());
  }
  if (options.own_connection) arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return arguments;
}

Channel::Channel(const ChannelOptions& options)
    : channel_(Connect(options)),
      address_(options.address),
      secret_(options.secret),
      cluster_(options.cluster) {}

void Channel::Prepare(grpc::ClientContext* context, std::chrono::milliseconds timeout) const {
  secret_.Attach(context);
  if (cluster_ != nullptr) cluster_->Attach(context);
  context->set_wait_for_ready(false);
  if (timeout.count() > 0) context->set_deadline(std::chrono::system_clock::now() + timeout);
}

}  // namespace conclave::rpc
