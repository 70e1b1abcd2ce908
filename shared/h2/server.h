// A gRPC server for clients that nobody trusts: HTTP/2 by nghttp2, with limits on everything a
// stranger can send, grpc.health.v1, reflection, and an orderly end.
//
// The gateway's public face. Processes of the cluster, which trust each other, speak through
// shared/rpc. A few threads ("grpc-io") own the connections and call the services there
// (server_call.h). Owned by a main thread; thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/h2/server_call.h"
#include "shared/net/tls_context.h"

namespace conclave::h2 {

struct ServerOptions {
  std::string name = {};                    // what error messages call it: "gateway-0"
  std::string listen = {};                  // host:port (port 0: any) or unix:/path
  std::string listen_setting = "--listen";  // the setting that error messages tell to change
  bool guarded = false;  // may listen beyond loopback: rpc::CheckReach says what that needs
  std::shared_ptr<net::TlsContext> tls = {};  // of kHttp2; null: not encrypted
  int32_t num_threads = 0;                    // 0: one for two processors, at least 1, at most 4
  size_t max_receive_bytes = 8 << 20;         // of a message; beyond: RESOURCE_EXHAUSTED
  size_t max_header_bytes = 16 << 10;         // of a call; beyond: RESOURCE_EXHAUSTED
  int32_t max_concurrent_streams = 1024;      // of one connection; further calls wait in the client
  // Beyond, the connection that has been without calls for longest gives way; the oldest newcomer
  // (newcomer_share) where they have half of all, or no other can; if there is none, the new one.
  int32_t max_connections = 1024;
  // The part of an I/O thread's time in which is read what connections send before a call of theirs
  // is worked on or answered, or its sender accepted by check_sender; 1: no bound. Who has closed
  // its side by then is not read any more.
  double newcomer_share = 0.15;
  // TLS handshakes under way, of clients that have begun to speak; the oldest is closed for
  // another.
  size_t max_handshakes = 512;
  // Messages and headers that are arriving, and calls that have sent none yet, all together; the
  // one that takes longest gives way to others with RESOURCE_EXHAUSTED.
  size_t max_arriving_bytes = 12 << 20;
  // What clients do not take of their answers, all together; the answer that has waited for longest
  // is reset, or its connection closed when even that cannot be sent.
  size_t max_untaken_bytes = 16 << 20;
  // Whether who sends this header "authorization" may send a message of more than 8 KiB; another
  // status refuses the call before the rest is read. Called on I/O threads. Null: everybody may.
  std::function<absl::Status(std::string_view authorization)> check_sender = {};
  // A connection so old, give or take a tenth, gets a GOAWAY: its calls go on, and the client opens
  // another one for the next, which a balancer may take elsewhere. 0: connections stay.
  std::chrono::milliseconds max_connection_age{0};
  // From a connection's beginning to its first settings, with TLS in between.
  std::chrono::milliseconds handshake_timeout{10'000};
  // From a message's first byte to its last.
  std::chrono::milliseconds message_timeout{60'000};
  // A client whose host has vanished frees its calls after at most the two together.
  std::chrono::milliseconds ping_interval{20'000}, ping_timeout{10'000};
  // For the client to take something of what it is sent.
  std::chrono::milliseconds write_timeout{30'000};
  // Full names of services that health checks may ask for.
  std::vector<std::string> health_names = {};
};

struct Service {
  using MakeCall = std::function<std::shared_ptr<ServerCall>(const CallStart&)>;
  std::string name;  // full: "conclave.v1.InferenceService"; its descriptor is linked in
  std::vector<std::pair<std::string, MakeCall>> methods;  // "Complete"
};

class Server {
 public:
  // Errors: INVALID_ARGUMENT (malformed address), FAILED_PRECONDITION (an address beyond loopback
  // that is not guarded), UNAVAILABLE (address in use, not ours, or not permitted): each names the
  // address and what to change. Every service starts as not serving. What the services borrow
  // outlives the server and its calls.
  static absl::StatusOr<std::unique_ptr<Server>> Start(ServerOptions options,
                                                       std::vector<Service> services);
  ~Server();  // Drain without grace

  // The address really bound, with the real port.
  const std::string& address() const;
  int port() const;  // 0 for a Unix socket
  int32_t num_connections() const;

  // What grpc.health.v1 answers, for every name in health_names and for "" (the process).
  void SetServing(bool serving);

  // Reports not serving, takes no new connections, tells the old ones (GOAWAY), waits until running
  // calls end or the grace is over, then ends the rest with UNAVAILABLE. Idempotent.
  void Drain(std::chrono::milliseconds grace);

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace conclave::h2
