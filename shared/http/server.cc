#include "shared/http/server.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/bounded_queue.h"
#include "shared/base/mutex.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"
#include "shared/http/asio.h"
#include "shared/http/connection.h"
#include "shared/net/listen.h"
#include "shared/net/room.h"

namespace conclave::http {

namespace asio = boost::asio;
using boost::system::error_code;
using internal::Connection;

namespace {

constexpr char kTooManyConnections[] =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    "Retry-After: 1\r\nContent-Length: 111\r\n\r\n"
    "{\"error\":{\"message\":\"too many connections are "
    "open\",\"type\":\"server_error\",\"param\":null,"
    "\"code\":\"overloaded\"}}   ";

}  // namespace

struct Server::State {
  State(ServerOptions options, std::vector<Route> routes)
      : io(std::make_shared<asio::io_context>(1)),
        acceptor(*io),
        work(options.max_queued_requests),
        arriving(std::max(options.max_arriving_bytes, options.max_body_bytes)),
        handshakes(options.max_handshakes),
        shared{.options = std::move(options),
               .router = internal::Router(std::move(routes)),
               .post_to_worker =
                   [this](std::function<void()> task) { return work.TryPush(std::move(task)); },
               .closed = [this](Connection* connection) { Remove(connection); },
               .arriving = &arriving,
               .handshakes = &handshakes} {}

  absl::Status Listen();
  asio::awaitable<void> AcceptLoop();
  void Remove(Connection* connection) {
    connections.erase(connection);
    MutexLock lock(mutex);
    num_connections = static_cast<int32_t>(connections.size());
    changed.NotifyAll();
  }
  void RunWorker() {
    while (!stopping.load()) {
      if (auto task = work.PopFor(std::chrono::seconds(1))) (*task)();
    }
  }

  std::shared_ptr<asio::io_context> io;
  asio::ip::tcp::acceptor acceptor;
  BoundedQueue<std::function<void()>> work;
  net::Room arriving, handshakes;
  Connection::Shared shared;
  std::string address;
  std::unordered_map<Connection*, std::shared_ptr<Connection>> connections;  // I/O thread only
  std::atomic<bool> stopping{false};
  std::thread io_thread;
  std::vector<std::thread> workers;

  mutable Mutex mutex;
  CondVar changed;
  int32_t num_connections GUARDED_BY(mutex) = 0;
};

absl::Status Server::State::Listen() {
  ASSIGN_OR_RETURN(const net::Listener listener,
                   net::Listen({.name = shared.options.name,
                                .listen = shared.options.listen,
                                .setting = shared.options.listen_setting,
                                .paths = false}));
  error_code error;
  acceptor.assign(listener.family == AF_INET6 ? asio::ip::tcp::v6() : asio::ip::tcp::v4(),
                  listener.descriptor, error);
  if (error) {
    close(listener.descriptor);
    return absl::UnavailableError(absl::StrCat(shared.options.name, " cannot listen on ",
                                               listener.address, ": ", error.message()));
  }
  address = listener.address;
  return absl::OkStatus();
}

asio::awaitable<void> Server::State::AcceptLoop() {
  while (acceptor.is_open()) {
    error_code error;
    asio::ip::tcp::socket socket =
        co_await acceptor.async_accept(asio::redirect_error(asio::use_awaitable, error));
    if (!acceptor.is_open()) co_return;
    if (error) {  // out of descriptors, or the client gave up: never spin
      asio::steady_timer pause(*io, std::chrono::milliseconds(20));
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, error));
      continue;
    }
    if (connections.size() >= static_cast<size_t>(shared.options.max_connections)) {
      socket.non_blocking(true, error);
      // Over TLS it could only be said after a handshake, which is what there is no room for.
      if (!shared.options.tls) {
        socket.write_some(asio::buffer(kTooManyConnections, sizeof kTooManyConnections - 1), error);
      }
      continue;
    }
    auto connection = std::make_shared<Connection>(std::move(socket), io, &shared);
    connections.emplace(connection.get(), connection);
    {
      MutexLock lock(mutex);
      num_connections = static_cast<int32_t>(connections.size());
    }
    connection->Start();
  }
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(ServerOptions options,
                                                      std::vector<Route> routes) {
  auto state = std::make_unique<State>(std::move(options), std::move(routes));
  RETURN_IF_ERROR(state->Listen());
  State* const raw = state.get();
  asio::co_spawn(
      *raw->io, [raw] { return raw->AcceptLoop(); }, asio::detached);
  raw->io_thread = std::thread([raw] {
    SetThreadName("http-io");
    raw->io->run();
  });
  for (int32_t i = 0; i < raw->shared.options.num_workers; ++i) {
    raw->workers.emplace_back([raw] {
      SetThreadName("http-worker");
      raw->RunWorker();
    });
  }
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() {
  State* const state = state_.get();
  state->stopping = true;
  state->work.Close();
  for (std::thread& worker : state->workers) worker.join();
  asio::post(*state->io, [state] {
    error_code ignored;
    state->acceptor.close(ignored);
    // Close ends a connection's coroutines, which remove it from the map later.
    for (auto& [raw, connection] : state->connections) connection->Close();
  });
  state->io_thread.join();  // run() returns when no coroutine is left
}

const std::string& Server::address() const { return state_->address; }

int32_t Server::num_connections() const {
  MutexLock lock(state_->mutex);
  return state_->num_connections;
}

void Server::EndAfterAnswers() { state_->shared.ending = true; }

bool Server::Drain(Duration grace) {
  State* const state = state_.get();
  asio::post(*state->io, [state] {
    error_code ignored;
    state->acceptor.close(ignored);
    std::vector<std::shared_ptr<Connection>> all;
    for (auto& [raw, connection] : state->connections) all.push_back(connection);
    for (auto& connection : all) connection->Drain();
  });
  const auto deadline = std::chrono::steady_clock::now() + grace;
  MutexLock lock(state->mutex);
  while (state->num_connections > 0) {
    if (!state->changed.WaitUntil(state->mutex, deadline) &&
        std::chrono::steady_clock::now() >= deadline) {
      return state->num_connections == 0;
    }
  }
  return true;
}

}  // namespace conclave::http
