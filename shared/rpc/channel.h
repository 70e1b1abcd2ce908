// Every setting of every gRPC channel between Conclave's processes, with its reason. Nothing else
// in the project sets a channel argument.
//
// Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/channel_arguments.h"
#include "shared/rpc/cluster_id.h"
#include "shared/rpc/cluster_secret.h"
#include "shared/rpc/tls_credentials.h"

namespace conclave::rpc {

// gRPC refuses messages above 4 MiB by default; a prompt of a million ids takes 3 to 5 MiB. Both
// directions.
inline constexpr int64_t kMaxMessageBytes = 8 << 20;
// Reconnecting: a restarted process is found again within about a quarter of a second, so that a
// request parked for it goes on well inside its 2 s (gRPC's default grows to two minutes).
inline constexpr std::chrono::milliseconds kReconnectBackoffFirst{100};
inline constexpr std::chrono::milliseconds kReconnectBackoffMost{250};
// An attempt to connect to a host that does not answer ends after this (gRPC: 20 s).
inline constexpr std::chrono::milliseconds kConnectTimeout{1000};
// A peer whose host vanished is noticed after at most the two together, also while no call runs.
inline constexpr std::chrono::milliseconds kKeepaliveTime{10'000};
inline constexpr std::chrono::milliseconds kKeepaliveTimeout{5'000};
// Servers accept pings this often; must be below kKeepaliveTime, else they close the connection
// with ENHANCE_YOUR_CALM.
inline constexpr std::chrono::milliseconds kPingIntervalAccepted{5'000};
// Flow-control window of a stream. Fixed, so that a frame of 1 MiB never waits for the window to
// grow.
inline constexpr int64_t kStreamWindowBytes = 4 << 20;

struct ChannelOptions {
  std::string address = {};  // host:port or unix:/path
  ClusterSecret secret = {};
  std::shared_ptr<const ClusterId> cluster = {};   // null: calls carry no id
  std::shared_ptr<const TlsCredentials> tls = {};  // null: not encrypted
  // Channels with equal arguments share one connection in gRPC; with its own, a channel's back-off
  // and its bytes in flight are nobody else's.
  bool own_connection = true;
  // Calls that no server has seen, as they met the end of a connection (GOAWAY), are sent by the
  // next one, as gRPC's clients do by themselves. Processes of the cluster decide that on their
  // own.
  bool resend_unseen = false;
};

// Whether a call that has ended with this status never left this process, so that sending it again
// cannot repeat it. gRPC sends such calls again by itself (resend_unseen) but for one that it was
// just about to write when the connection's GOAWAY came: it fails that one.
bool NeverSent(const grpc::ClientContext& context, const grpc::Status& status);

// The arguments of such a channel.
grpc::ChannelArguments MakeChannelArguments(const ChannelOptions& options);

// A channel and what each call on it carries. Copyable; copies share the connection.
class Channel {
 public:
  // Connects on the first call.
  explicit Channel(const ChannelOptions& options);

  const std::shared_ptr<grpc::Channel>& grpc() const { return channel_; }
  const std::string& address() const { return address_; }

  // Prepares a call's context: shows the cluster secret and id, does not wait for the connection (a
  // call to a dead peer fails at once with UNAVAILABLE), and sets the deadline if `timeout` is
  // above zero.
  void Prepare(grpc::ClientContext* context, std::chrono::milliseconds timeout) const;

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::string address_;
  ClusterSecret secret_;
  std::shared_ptr<const ClusterId> cluster_;
};

}  // namespace conclave::rpc
