#include "shared/h2/server.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/limits.h"
#include "shared/base/mutex.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"
#include "shared/h2/connection.h"
#include "shared/h2/health.h"
#include "shared/h2/io_thread.h"
#include "shared/h2/reflection.h"
#include "shared/net/listen.h"
#include "shared/rpc/reach.h"

namespace conclave::h2 {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

// Accepted before other work has its turn.
constexpr int kMostAccepted = 16;
// When accepting fails, for want of descriptors for example: never spin.
constexpr auto kAcceptPause = std::chrono::milliseconds(20);
// For connections to end once they have been told.
constexpr auto kEndPatience = std::chrono::seconds(5);

size_t NumThreads(int32_t wanted) {
  if (wanted > 0) return static_cast<size_t>(wanted);
  return std::clamp<size_t>(static_cast<size_t>(ReadCpuLimit().cores) / 2, 1, 4);
}

Methods Registered(const std::vector<Service>& services) {
  Methods methods;
  for (const Service& service : services) {
    for (const auto& [name, make] : service.methods) {
      methods.emplace(absl::StrCat("/", service.name, "/", name), make);
    }
  }
  return methods;
}

}  // namespace

struct Server::State {
  void WaitForClients();
  void Accept();
  // The rest runs on the thread.
  void Take(IoThread& thread, int descriptor);
  // Closes the connection that has been idle for longest, or, where newcomers have half of all or
  // no other is idle, the oldest newcomer. False: there is neither.
  static bool MakeRoom(IoThread& thread);
  void CountConnections(int32_t change) EXCLUDES(mutex);
  template <typename Do>
  void OnAll(Do act);
  // Until no connection is left, or so long.
  bool AwaitEnd(std::chrono::milliseconds patience) EXCLUDES(mutex);

  ServerOptions options;
  Methods methods;
  HealthStates health;
  std::string address;
  int port = 0;
  std::vector<std::unique_ptr<IoThread>> io_threads;
  std::vector<std::thread> threads;
  std::atomic<bool> drained{false};

  // The first I/O thread's.
  std::unique_ptr<asio::posix::stream_descriptor> acceptor;
  Timers::Handle accept_pause;
  size_t next_thread = 0;

  mutable Mutex mutex;
  CondVar changed;
  int32_t num_connections GUARDED_BY(mutex) = 0;
};

void Server::State::WaitForClients() {
  acceptor->async_wait(asio::posix::stream_descriptor::wait_read, [this](error_code error) {
    if (!error) Accept();
  });
}

void Server::State::Accept() {
  for (int i = 0; i < kMostAccepted && acceptor->is_open(); ++i) {
    const int descriptor =
        accept4(acceptor->native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (descriptor < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) break;
      if (errno == ECONNABORTED || errno == EINTR) continue;
      io_threads[0]->timers.Set(&accept_pause, std::chrono::steady_clock::now() + kAcceptPause,
                                [this] { WaitForClients(); });
      return;
    }
    IoThread& thread = *io_threads[next_thread++ % io_threads.size()];
    asio::dispatch(*thread.io, [this, &thread, descriptor] { Take(thread, descriptor); });
  }
  if (acceptor->is_open()) WaitForClients();
}

bool Server::State::MakeRoom(IoThread& thread) {
  Connection *oldest_newcomer = nullptr, *idle_longest = nullptr;
  size_t newcomers = 0;
  for (const auto& [connection, owned] : thread.connections) {
    if (connection->newcomer()) {
      ++newcomers;
      if (!oldest_newcomer || connection->started() < oldest_newcomer->started()) {
        oldest_newcomer = connection;
      }
    } else if (connection->idle() &&
               (!idle_longest || connection->last_sign() < idle_longest->last_sign())) {
      idle_longest = connection;
    }
  }
  const bool many = 2 * newcomers >= thread.max_connections;
  Connection* const leaves =
      idle_longest && !(many && oldest_newcomer) ? idle_longest : oldest_newcomer;
  if (!leaves) return false;
  leaves->Close();
  return true;
}

void Server::State::Take(IoThread& thread, int descriptor) {
  const bool full = thread.connections.size() >= thread.max_connections;
  if (drained || (full && !MakeRoom(thread))) {
    close(descriptor);
    return;
  }
  auto connection = std::make_shared<Connection>(&thread, descriptor);
  thread.connections.emplace(connection.get(), connection);
  CountConnections(1);
  connection->Start();
}

void Server::State::CountConnections(int32_t change) {
  MutexLock lock(mutex);
  num_connections += change;
  changed.NotifyAll();
}

template <typename Do>
void Server::State::OnAll(Do act) {
  for (const auto& thread : io_threads) {
    asio::post(*thread->io, [&thread = *thread, act] {
      std::vector<std::shared_ptr<Connection>> all;
      for (const auto& [raw, connection] : thread.connections) all.push_back(connection);
      for (const auto& connection : all) act(*connection);
    });
  }
}

bool Server::State::AwaitEnd(std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  MutexLock lock(mutex);
  while (num_connections > 0) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    changed.WaitUntil(mutex, deadline);
  }
  return true;
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(ServerOptions options,
                                                      std::vector<Service> services) {
  const net::ListenOptions listen = {
      .name = options.name, .listen = options.listen, .setting = options.listen_setting};
  ASSIGN_OR_RETURN(const auto address, net::ParseListen(listen));
  RETURN_IF_ERROR(rpc::CheckReach(listen, address, options.guarded));
  ASSIGN_OR_RETURN(const net::Listener listener, net::Listen(listen));

  auto state = std::make_unique<State>();
  state->options = std::move(options);
  state->address = listener.address;
  state->port = listener.port;
  state->health.Declare(state->options.health_names);
  services.push_back(HealthService(&state->health));
  std::vector<std::string> names;
  for (const Service& service : services) names.push_back(service.name);
  services.push_back(ReflectionService(std::move(names)));
  state->methods = Registered(services);
  State* const raw = state.get();
  const size_t num_threads = NumThreads(raw->options.num_threads);
  for (size_t i = 0; i < num_threads; ++i) {
    auto& thread = raw->io_threads.emplace_back(
        std::make_unique<IoThread>(&raw->options, &raw->methods, num_threads));
    thread->closed = [raw] { raw->CountConnections(-1); };
  }
  raw->acceptor = std::make_unique<asio::posix::stream_descriptor>(*raw->io_threads[0]->io,
                                                                   listener.descriptor);
  raw->WaitForClients();
  for (const auto& thread : raw->io_threads) {
    raw->threads.emplace_back([io = thread->io] {
      SetThreadName("grpc-io");
      const auto work = asio::make_work_guard(*io);
      io->run();
    });
  }
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() {
  Drain(std::chrono::milliseconds(0));
  for (const auto& thread : state_->io_threads) thread->io->stop();
  for (std::thread& thread : state_->threads) thread.join();
}

const std::string& Server::address() const { return state_->address; }
int Server::port() const { return state_->port; }

int32_t Server::num_connections() const {
  MutexLock lock(state_->mutex);
  return state_->num_connections;
}

void Server::SetServing(bool serving) { state_->health.SetServing(serving); }

void Server::Drain(std::chrono::milliseconds grace) {
  State* const state = state_.get();
  if (state->drained.exchange(true)) return;
  SetServing(false);
  asio::post(*state->io_threads[0]->io, [state] {
    error_code ignored;
    state->acceptor->close(ignored);
    state->accept_pause.Cancel();
  });
  if (grace.count() > 0) {
    state->OnAll([](Connection& connection) { connection.Drain(); });
    if (state->AwaitEnd(grace)) return;
  }
  state->OnAll([](Connection& connection) {
    connection.End(absl::UnavailableError("the server is shutting down"));
  });
  if (state->AwaitEnd(kEndPatience)) return;
  state->OnAll([](Connection& connection) { connection.Close(); });
  state->AwaitEnd(kEndPatience);
}

}  // namespace conclave::h2
