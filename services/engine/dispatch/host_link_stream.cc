#include "services/engine/dispatch/host_link_stream.h"

#include <atomic>
#include <chrono>
#include <deque>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/mutex.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"
#include "shared/rpc/host_frames.h"
#include "shared/shm/host_socket.h"

namespace conclave::engine {
namespace {

// A step's rows of a long prompt for one worker; what does not fit waits. Its memory is taken as
// far as it was ever used.
constexpr uint64_t kRequestRingBytes = uint64_t{64} << 20;
constexpr uint64_t kResultRingBytes = uint64_t{64} << 20;
constexpr std::chrono::milliseconds kAnswerTimeout{1000};
constexpr std::chrono::milliseconds kHelloPoll{1};
// Handled before whoever polls goes on.
constexpr int kMostMessages = 1024;

class HostLinkStream final : public LinkStream,
                             public LinkSource,
                             public std::enable_shared_from_this<HostLinkStream> {
 public:
  HostLinkStream(uint64_t stream_id, std::shared_ptr<LinkStreamOwner> owner, HostLinkTarget target,
                 std::shared_ptr<LinkInbox> inbox, std::shared_ptr<const void> presence)
      : LinkStream(stream_id),
        presence_(std::move(presence)),
        owner_(std::move(owner)),
        target_(std::move(target)),
        inbox_(std::move(inbox)) {}

  void Start(const std::shared_ptr<LinkStream>& self, rpc::OutgoingFrame hello) override {
    Send(std::move(hello));
    try {
      // Detached, as it is the stream's last owner; `presence` tells when it has ended.
      std::thread([this, keep = self]() mutable {
        SetThreadName("host-link");
        Run();
        keep = nullptr;  // may delete this
      }).detach();
    } catch (const std::system_error& error) {
      End(absl::ResourceExhaustedError(absl::StrCat("no thread can be had: ", error.what())));
    }
  }

  bool Send(rpc::OutgoingFrame frame) override {
    std::shared_ptr<rpc::HostFrames> frames;
    {
      MutexLock lock(mutex_);
      if (end_.has_value()) return false;
      if (frames_ == nullptr) {
        early_.push_back(std::move(frame));
        return true;
      }
      frames = frames_;
    }
    const absl::Status sent = frames->Send(std::move(frame));
    if (!sent.ok()) Cancel(sent);
    return sent.ok();
  }

  void Cancel(const absl::Status& why) override {
    MutexLock lock(mutex_);
    if (!end_.has_value()) end_ = why;
    if (socket_.has_value()) socket_->Shutdown();
  }

  std::string_view transport() const override { return "shared_memory"; }

  void Poll() override {
    // Frames are handled in order, whoever polls.
    MutexLock order(poll_mutex_);
    std::shared_ptr<rpc::HostFrames> frames;
    {
      MutexLock lock(mutex_);
      if (end_.has_value()) return;
      frames = frames_;
    }
    if (frames == nullptr) return;
    if (const absl::Status flushed = frames->Flush(); !flushed.ok()) return Cancel(flushed);
    for (int i = 0; i < kMostMessages; ++i) {
      absl::StatusOr<std::optional<rpc::ReceivedMessage>> message = frames->Receive();
      if (!message.ok()) return Cancel(message.status());
      if (!message->has_value()) return;
      heard_ = true;
      owner_->OnMessage(this, **std::move(message));
    }
    inbox_->doorbell()->Ring();  // there may be more
  }

 private:
  void Run() {
    absl::Status why = Connect();
    if (why.ok()) {
      inbox_->Add(shared_from_this());
      // Nobody may be waiting in the inbox: the worker's hello is this thread's to take.
      while (!heard_ && !over() && absl::IsDeadlineExceeded(socket_->Receive(kHelloPoll).status()))
        Poll();
      socket_->AwaitEnd();
      Poll();  // the worker may have said why
      inbox_->Remove(this);
      why = absl::UnavailableError("the worker ended the stream");
    }
    End(why);
  }

  void End(absl::Status why) {
    {
      MutexLock lock(mutex_);
      if (end_.has_value()) why = *end_;
      end_ = why;
    }
    { MutexLock last_poll(poll_mutex_); }
    owner_->OnEnd(this, why);
  }

  bool over() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return end_.has_value();
  }

  absl::Status Connect() {
    ASSIGN_OR_RETURN(shm::HostConnection connection, shm::HostConnection::Connect(target_.path));
    {
      MutexLock lock(mutex_);
      if (end_.has_value()) return *end_;
      socket_ = std::move(connection);
    }
    const rpc::HostOffer offer = {
        .cluster = target_.cluster != nullptr ? target_.cluster->value() : "",
        .secret = target_.secret.token(),
        .worker = target_.worker,
        .request_ring_bytes = kRequestRingBytes,
        .result_ring_bytes = kResultRingBytes};
    ASSIGN_OR_RETURN(
        shm::SharedMemory memory,
        shm::SharedMemory::Create("conclave-rows", rpc::HostFrames::MemoryBytes(offer)));
    const int descriptors[] = {memory.descriptor(), inbox_->doorbell().descriptor()};
    RETURN_IF_ERROR(socket_->Send(rpc::EncodeOffer(offer), descriptors));
    ASSIGN_OR_RETURN(shm::HostMessage message, socket_->Receive(kAnswerTimeout));
    ASSIGN_OR_RETURN(const rpc::HostAnswer answer, rpc::ParseAnswer(message.bytes));
    RETURN_IF_ERROR(answer.status);
    if (message.descriptors.size() != rpc::kAnswerDescriptors) {
      return absl::InvalidArgumentError(absl::StrCat("host greeting: ", message.descriptors.size(),
                                                     " descriptors, wanted ",
                                                     rpc::kAnswerDescriptors));
    }
    ASSIGN_OR_RETURN(shm::SharedDoorbell bell, shm::SharedDoorbell::Map(message.TakeDescriptor(0)));
    const auto frames = std::make_shared<rpc::HostFrames>(rpc::HostFrames::Side::kEngine, offer,
                                                          std::move(memory), std::move(bell));
    MutexLock lock(mutex_);
    for (rpc::OutgoingFrame& frame : early_) RETURN_IF_ERROR(frames->Send(std::move(frame)));
    early_.clear();
    frames_ = frames;
    return absl::OkStatus();
  }

  const std::shared_ptr<const void> presence_;  // first: it goes after all others
  const std::shared_ptr<LinkStreamOwner> owner_;
  const HostLinkTarget target_;
  const std::shared_ptr<LinkInbox> inbox_;
  std::atomic<bool> heard_{false};  // the worker
  Mutex poll_mutex_;
  Mutex mutex_;
  // Set once, before anybody but Run and Cancel uses it.
  std::optional<shm::HostConnection> socket_;
  std::shared_ptr<rpc::HostFrames> frames_ GUARDED_BY(mutex_);  // null until they are agreed on
  std::deque<rpc::OutgoingFrame> early_ GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ GUARDED_BY(mutex_);
};

}  // namespace

std::shared_ptr<LinkStream> MakeHostLinkStream(uint64_t id, std::shared_ptr<LinkStreamOwner> owner,
                                               HostLinkTarget target,
                                               std::shared_ptr<LinkInbox> inbox,
                                               std::shared_ptr<const void> presence) {
  return std::make_shared<HostLinkStream>(id, std::move(owner), std::move(target), std::move(inbox),
                                          std::move(presence));
}

}  // namespace conclave::engine
