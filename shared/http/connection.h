// One client connection: reads requests, hands them to handlers, writes the answers in order.
//
// All methods run on the server's I/O thread. Two coroutines keep the object alive: one reads bytes
// for as long as the connection lives (which is how a client that goes away is noticed while it is
// being answered), the other does everything else.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "shared/http/asio.h"
#include "shared/http/outgoing.h"
#include "shared/http/router.h"
#include "shared/http/server.h"
#include "shared/http/transport.h"
#include "shared/net/room.h"

namespace conclave::http::internal {

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // What all connections share; outlives them.
  struct Shared {
    ServerOptions options;
    Router router;
    // Runs a handler on a worker thread; false when too many wait.
    std::function<bool(std::function<void()>)> post_to_worker;
    std::function<void(Connection*)> closed;
    net::Room* arriving;              // bytes of bodies
    net::Room* handshakes;            // their number
    std::atomic<bool> ending{false};  // every answer is the last of its connection
  };

  // `socket`: accepted. The server's TlsContext, if it has one, is used as it is now.
  Connection(boost::asio::ip::tcp::socket socket, std::shared_ptr<boost::asio::io_context> io,
             Shared* shared);

  void Start();
  // Closes when idle, else after the answer being made.
  void Drain();
  // Closes at once.
  void Close();

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using TimePoint = std::chrono::steady_clock::time_point;

  // The handshake, if there is one, then the two coroutines of the connection's life.
  boost::asio::awaitable<void> Begin();
  boost::asio::awaitable<void> ReadLoop();
  boost::asio::awaitable<void> Run();
  // One request and its answer. False: the connection is to be closed.
  boost::asio::awaitable<bool> ServeOne();
  // Sees that the client has the last answer before the socket closes: a reset would destroy it.
  boost::asio::awaitable<void> Linger();

  // Feeds the parser until its head (or whole message) is there. On failure `*failure` holds the
  // answer, or nothing if none can be given.
  boost::asio::awaitable<bool> Parse(Parser& parser, bool whole, TimePoint deadline,
                                     std::optional<Response>* failure);
  // Whether the body may go on arriving; else `*failure` says why not.
  bool AdmitBody(Parser& parser, std::optional<Response>* failure);
  boost::asio::awaitable<bool> Answer(Request request, const Server::Route& route);
  // Has the handler called, here or by a worker.
  void Handle(std::shared_ptr<Exchange> exchange, const Server::Route& route);
  boost::asio::awaitable<bool> WriteWhole(const Response& response);
  boost::asio::awaitable<bool> Write(std::string bytes);
  std::string Head(int status, const std::string& content_type, const Headers& headers,
                   std::string_view framing) const;

  // Closes the connection unless the timer is cancelled before: the peer does not take what it is
  // sent.
  void CloseIn(Duration patience);
  // Waits until something happened (bytes came, the peer went, a handler has output) or the
  // deadline. False: the deadline.
  boost::asio::awaitable<bool> WaitUntil(TimePoint deadline);
  // Sees that the deadline ends a wait. The timer is set only when it would otherwise fire too
  // late, since that is a call of the system; one that fires too early is set again.
  void SetDeadlineTimer();
  // Has the system acknowledge what has come, for a client that waits for that with what follows.
  void Acknowledge();
  void Wake();
  // The handler has queued something.
  void OnOutput();

  Transport transport_;
  const std::shared_ptr<boost::asio::io_context> io_;
  Shared* const shared_;
  std::string peer_;
  std::string local_address_;

  std::string input_;         // read and not yet parsed
  bool input_ended_ = false;  // the client closed its side, or the socket failed
  bool discard_input_ = false;
  bool reading_body_ = false;             // of a request that is not refused so far
  boost::asio::steady_timer wake_timer_;  // never fires: cancelled to wake
  boost::asio::steady_timer deadline_timer_;
  TimePoint deadline_ = TimePoint::max();      // of the wait, if there is one
  TimePoint deadline_set_ = TimePoint::max();  // when the timer fires; max: it is not set
  boost::asio::steady_timer input_room_timer_;
  boost::asio::steady_timer peer_timer_;
  bool woken_ = false;
  std::optional<net::Room::Holder> body_room_;  // of a body that is arriving
  std::shared_ptr<Outgoing> outgoing_;          // of the request being answered
  bool idle_ = true;
  bool draining_ = false;
  bool closed_ = false;

  // Of the request being answered.
  bool head_only_ = false;
  bool keep_alive_ = false;
  bool chunked_ = false;
};

}  // namespace conclave::http::internal
