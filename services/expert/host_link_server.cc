#include "services/expert/host_link_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <list>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/expert/host_stream.h"
#include "shared/base/log.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"
#include "shared/rpc/host_frames.h"
#include "shared/rpc/host_greeting.h"
#include "shared/shm/host_socket.h"

namespace conclave::expert {
namespace {

using std::chrono::milliseconds;

// From a connection's beginning to its offer.
constexpr milliseconds kGreetingTimeout{2000};
// Engines of one host.
constexpr size_t kMostConnections = 256;
// When accepting fails, for want of descriptors for example: never spin.
constexpr milliseconds kAcceptPause{50};
// Refusals are told so often at most.
constexpr milliseconds kRefusalPeriod{10'000};
constexpr milliseconds kIdleWait{500};

// One engine's connection: it greets, then has a stream.
struct Client {
  explicit Client(shm::HostConnection taken)
      : connection(std::make_shared<shm::HostConnection>(std::move(taken))),
        since(std::chrono::steady_clock::now()) {}
  const std::shared_ptr<shm::HostConnection> connection;  // the stream's, too
  const TimePoint since;
  std::shared_ptr<HostStream> stream;  // once it has greeted
};

}  // namespace

struct HostLinkServer::State {
  void Run();
  // False: the connection is over.
  bool Read(Client& client);
  absl::Status Greet(Client& client);
  void DropLate();

  Options options;
  std::unique_ptr<shm::HostListener> listener;
  int wake = -1;  // an eventfd
  std::atomic<bool> stopping{false};
  // The thread's.
  std::list<Client> clients;
  TimePoint accept_from;
  TimePoint tell_refusals_from;
  std::thread thread;
};

absl::StatusOr<std::unique_ptr<HostLinkServer>> HostLinkServer::Start(Options options) {
  if (options.context->compute->doorbell().descriptor() < 0) {
    return absl::UnimplementedError("this system has no memory that processes can share (memfd)");
  }
  auto state = std::make_unique<State>();
  ASSIGN_OR_RETURN(shm::HostListener listener, shm::HostListener::Listen(options.path));
  state->listener = std::make_unique<shm::HostListener>(std::move(listener));
  state->options = std::move(options);
  state->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  state->thread = std::thread([raw = state.get()] { raw->Run(); });
  return std::unique_ptr<HostLinkServer>(new HostLinkServer(std::move(state)));
}

HostLinkServer::HostLinkServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

HostLinkServer::~HostLinkServer() {
  state_->stopping = true;
  const uint64_t one = 1;
  if (write(state_->wake, &one, sizeof(one)) < 0) {
    // The thread looks at `stopping` twice a second anyway.
  }
  state_->thread.join();
  close(state_->wake);
}

const std::string& HostLinkServer::path() const { return state_->listener->path(); }

void HostLinkServer::State::Run() {
  SetThreadName("host-links");
  std::vector<pollfd> waits;
  while (!stopping) {
    waits.clear();
    waits.push_back({wake, POLLIN, 0});
    const bool accepting = std::chrono::steady_clock::now() >= accept_from;
    waits.push_back({listener->descriptor(), static_cast<short>(accepting ? POLLIN : 0), 0});
    for (const Client& client : clients)
      waits.push_back({client.connection->descriptor(), POLLIN, 0});
    const milliseconds patience = accepting ? kIdleWait : kAcceptPause;
    if (poll(waits.data(), waits.size(), static_cast<int>(patience.count())) < 0) continue;
    auto client = clients.begin();
    for (size_t i = 2; i < waits.size(); ++i) {
      const auto next = std::next(client);
      if (waits[i].revents != 0 && !Read(*client)) {
        if (client->stream != nullptr) client->stream->Close();
        clients.erase(client);
      }
      client = next;
    }
    DropLate();
    if (waits[1].revents != 0) {
      if (auto taken = listener->Accept(milliseconds(0))) {
        clients.emplace_back(*std::move(taken));
      } else {
        accept_from = std::chrono::steady_clock::now() + kAcceptPause;
      }
    }
  }
  for (Client& client : clients) {
    client.connection->Shutdown();
    if (client.stream != nullptr) client.stream->Close();
  }
  clients.clear();
}

void HostLinkServer::State::DropLate() {
  const TimePoint now = std::chrono::steady_clock::now();
  // The oldest come first, and go first where there are too many.
  size_t left = clients.size();
  clients.remove_if([&](const Client& client) {
    if (client.stream != nullptr) return false;
    const bool drop = now - client.since > kGreetingTimeout || left >= kMostConnections;
    if (drop) --left;
    return drop;
  });
}

bool HostLinkServer::State::Read(Client& client) {
  if (client.stream != nullptr) return false;  // it has nothing more to say: it is gone
  const absl::Status greeted = Greet(client);
  if (greeted.ok()) return true;
  if (!absl::IsUnavailable(greeted)) {
    if (const TimePoint now = std::chrono::steady_clock::now(); now >= tell_refusals_from) {
      tell_refusals_from = now + kRefusalPeriod;
      LogWarning("an engine of this host was refused",
                 {{"reason", std::string(greeted.message())}});
    }
    client.connection->Send(rpc::EncodeAnswer({greeted}), {}).IgnoreError();
  }
  return false;
}

absl::Status HostLinkServer::State::Greet(Client& client) {
  ASSIGN_OR_RETURN(shm::HostMessage message, client.connection->Receive(milliseconds(0)));
  ASSIGN_OR_RETURN(const rpc::HostOffer offer, rpc::ParseOffer(message.bytes));
  if (message.descriptors.size() != rpc::kOfferDescriptors) {
    return absl::InvalidArgumentError(absl::StrCat("host greeting: ", message.descriptors.size(),
                                                   " descriptors, wanted ",
                                                   rpc::kOfferDescriptors));
  }
  RETURN_IF_ERROR(options.secret.CheckShown(offer.secret));
  const auto streams = std::count_if(clients.begin(), clients.end(),
                                     [](const Client& other) { return other.stream != nullptr; });
  if (static_cast<size_t>(streams) >= kMostConnections) {
    return absl::ResourceExhaustedError(
        absl::StrCat(options.name, " has ", streams, " engines of this host already"));
  }
  if (options.cluster != nullptr) RETURN_IF_ERROR(options.cluster->CheckShown(offer.cluster));
  if (offer.worker != options.name) {
    return absl::FailedPreconditionError(
        absl::StrCat("the engine wants ", offer.worker, ", this is ", options.name));
  }
  ASSIGN_OR_RETURN(
      shm::SharedMemory memory,
      shm::SharedMemory::Map(message.TakeDescriptor(0), rpc::HostFrames::MemoryBytes(offer)));
  ASSIGN_OR_RETURN(shm::SharedDoorbell bell, shm::SharedDoorbell::Map(message.TakeDescriptor(1)));
  const int own_bell[] = {options.context->compute->doorbell().descriptor()};
  RETURN_IF_ERROR(client.connection->Send(rpc::EncodeAnswer({absl::OkStatus()}), own_bell));
  const auto frames = std::make_shared<rpc::HostFrames>(rpc::HostFrames::Side::kWorker, offer,
                                                        std::move(memory), std::move(bell));
  client.stream = std::make_shared<HostStream>(
      *options.context, frames, [connection = client.connection] { connection->Shutdown(); });
  client.stream->Start();
  return absl::OkStatus();
}

}  // namespace conclave::expert
