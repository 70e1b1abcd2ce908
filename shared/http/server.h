// An HTTP/1.1 server for APIs: keep-alive, pipelining, chunked bodies and streamed answers, with
// limits on everything a stranger can send.
//
// Used by the gateway for its API and by every process for its ops port. One thread ("http-io")
// owns all sockets and runs a coroutine a connection; handlers run on a few worker threads
// ("http-worker"), so that a long tokenization never stops other streams. What is quicker than the
// way to another thread and back runs on the I/O thread itself (QuickHandler).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/base/clock.h"
#include "shared/http/access_check.h"
#include "shared/http/exchange.h"
#include "shared/net/tls_context.h"

namespace conclave::http {

inline constexpr size_t kFreeBodyBytes = 8 << 10;
// Larger bodies go to a worker, whatever the route. To read and check the worst JSON of this size
// takes the gateway 0.4 ms, and an ordinary one a tenth of that.
inline constexpr size_t kQuickBodyBytes = 8 << 10;

struct ServerOptions {
  std::string name = "HTTP server";              // what error messages call it
  std::string listen = {};                       // host:port; port 0: any
  std::string listen_setting = "--http-listen";  // the setting that error messages tell to change
  AccessPolicy access = {};
  std::shared_ptr<net::TlsContext> tls = {};  // null: plain HTTP
  size_t max_header_bytes = 16 << 10;         // request line and headers; beyond: 431
  size_t max_body_bytes = 4 << 20;            // beyond: 413
  // Bodies that are arriving, all together; the one that takes longest gives way (503) to others.
  // At least max_body_bytes. Bodies up to kFreeBodyBytes count for nothing.
  size_t max_arriving_bytes = 16 << 20;
  // Whether who sends this Authorization header may send a larger body; a response refuses before
  // it is read. Called on the I/O thread. Null: everybody may.
  std::function<std::optional<Response>(std::string_view authorization)> check_sender = {};
  size_t max_unsent_bytes =
      4 << 20;  // of one streamed answer; a client this far behind is disconnected
  int32_t max_connections = 1024;  // beyond: 503 and close
  // TLS handshakes under way, of clients that have begun to speak; the oldest is closed for
  // another.
  size_t max_handshakes = 512;
  int32_t num_workers = 2;                             // threads that run handlers
  size_t max_queued_requests = 1024;                   // waiting for a worker; beyond: 503
  Duration idle_timeout = std::chrono::seconds(75);    // between requests
  Duration header_timeout = std::chrono::seconds(10);  // from a request's first byte to the end of
                                                       // its headers; and for a TLS handshake
  Duration body_timeout = std::chrono::seconds(60);    // from there to the end of its body
  Duration write_timeout =
      std::chrono::seconds(30);  // for the client to take what is being written
};

class Server {
 public:
  // Runs on a worker thread; may answer later from any thread.
  using Handler = std::function<void(std::shared_ptr<Exchange>)>;
  // Runs on the I/O thread, which every other connection waits for meanwhile: at most some hundred
  // microseconds, and no waiting. Returns what is left to do for a worker thread; null: nothing.
  using Rest = std::function<void()>;
  using QuickHandler = std::function<Rest(const std::shared_ptr<Exchange>&)>;

  // `path` is exact ("/v1/models"), or a prefix when it ends in "/*" ("/v1/models/*"). An unknown
  // path gets 404, a known one with another method 405.
  struct Route {
    std::string method;  // "GET" also serves HEAD
    std::string path;
    Handler handler;
    // In its place for bodies of at most kQuickBodyBytes; null: none.
    QuickHandler quick = nullptr;
  };

  // INVALID_ARGUMENT (the address is not host:port) and UNAVAILABLE (it is in use, not ours, or not
  // permitted) name the address and what to change.
  static absl::StatusOr<std::unique_ptr<Server>> Start(ServerOptions options,
                                                       std::vector<Route> routes);
  // Stops at once: connections are closed, handlers finish, threads are joined.
  ~Server();

  // host:port really bound.
  const std::string& address() const;
  // Connections open now.
  int32_t num_connections() const;

  // From here on every answer is the last of its connection ("Connection: close"), so that clients
  // come back by a new one, which a balancer takes elsewhere. Requests are still taken.
  void EndAfterAnswers();
  // Stops accepting and closes idle connections; answers begun go on until `grace` has passed. True
  // if all finished.
  bool Drain(Duration grace);

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace conclave::http
