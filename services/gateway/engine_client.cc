#include "services/gateway/engine_client.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <utility>

#include "conclave/v1/engine.grpc.pb.h"
#include "services/gateway/engine_messages.h"
#include "shared/base/mutex.h"
#include "shared/placement/topology_proto.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

// Between attempts to open the stream.
constexpr auto kFirstBackoff = std::chrono::milliseconds(100);
constexpr auto kMostBackoff = std::chrono::milliseconds(1000);
// A cancelled call ends at once; this is for a library that hangs.
constexpr auto kCloseTimeout = std::chrono::seconds(10);

// What a client shares with its streams: whom to tell, and how many streams there are.
class StreamOwner {
 public:
  StreamOwner(std::string engine, EngineListener* listener)
      : engine_(std::move(engine)), listener_(listener) {}
  // After this no call reaches the listener. Calls on other threads have ended when it returns.
  void Detach() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    listener_ = nullptr;
  }
  // The listener only queues what it is told, so the lock is held for a moment.
  template <typename Function>
  void Tell(Function function) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (listener_) function(engine_, *listener_);
  }
  void AddStream() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    ++num_streams_;
  }
  void RemoveStream() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (--num_streams_ == 0) no_stream_.NotifyAll();
  }
  bool HasStreams() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return num_streams_ > 0;
  }
  void WaitForStreams(Duration timeout) EXCLUDES(mutex_) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    MutexLock lock(mutex_);
    while (num_streams_ > 0 && no_stream_.WaitUntil(mutex_, deadline)) {
    }
  }

 private:
  const std::string engine_;
  mutable Mutex mutex_;
  CondVar no_stream_;
  EngineListener* listener_ GUARDED_BY(mutex_);
  int num_streams_ GUARDED_BY(mutex_) = 0;
};

// A stream's presence at its owner, which ends after everything else of the stream.
class StreamPresence {
 public:
  explicit StreamPresence(std::shared_ptr<StreamOwner> owner) : owner_(std::move(owner)) {
    owner_->AddStream();
  }
  ~StreamPresence() { owner_->RemoveStream(); }
  StreamPresence(const StreamPresence&) = delete;
  StreamPresence& operator=(const StreamPresence&) = delete;

 private:
  const std::shared_ptr<StreamOwner> owner_;
};

// One stream. Keeps itself alive until gRPC is done with it. A hold lasts from the start until the
// read side has ended, so that writes, and the read that follows a processed message, may be
// started from any thread meanwhile.
class Stream final : public grpc::ClientBidiReactor<v1::EngineCommand, v1::EngineEvents>,
                     public std::enable_shared_from_this<Stream> {
 public:
  explicit Stream(std::shared_ptr<StreamOwner> owner)
      : owner_(std::move(owner)), presence_(owner_) {}

  void Open(v1::EngineService::Stub* stub, const rpc::Channel& channel,
            const std::string& gateway) {
    self_ = shared_from_this();
    channel.Prepare(&context_, std::chrono::milliseconds(0));
    stub->async()->Connect(&context_, this);
    AddHold();
    v1::EngineCommand hello;
    hello.mutable_hello()->set_name(gateway);
    Send(std::move(hello));
    StartRead(&events_);
    StartCall();
  }

  void Send(v1::EngineCommand command) EXCLUDES(mutex_) {
    const v1::EngineCommand* first = nullptr;
    {
      MutexLock lock(mutex_);
      if (closed_ || finishing_) return;
      unsent_.push_back(std::move(command));
      if (unsent_.size() == 1) {
        first = &unsent_.front();
        AddHold();  // the stream's own hold may go before the write has begun
      }
    }
    if (first) {
      StartWrite(first);
      RemoveHold();
    }
  }

  void FinishWrites() EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (closed_ || finishing_) return;
      finishing_ = true;
      if (!unsent_.empty()) return;  // after the last of them
      AddHold();
    }
    StartWritesDone();
    RemoveHold();
  }

  void Close() { context_.TryCancel(); }
  bool done() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return done_;
  }

  void OnWriteDone(bool ok) override {
    const v1::EngineCommand* next = nullptr;
    bool last = false;
    {
      MutexLock lock(mutex_);
      unsent_.pop_front();
      if (!ok) closed_ = true;
      if (!closed_ && !unsent_.empty()) next = &unsent_.front();
      last = !closed_ && !next && finishing_;
    }
    if (next) StartWrite(next);
    if (last) StartWritesDone();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      {
        MutexLock lock(mutex_);
        closed_ = true;
      }
      RemoveHold();
      return;
    }
    // What an engine reaches is known before it is used.
    for (const v1::EngineEvent& event : events_.events()) {
      if (!event.has_reach()) continue;
      owner_->Tell([&](const std::string& name, EngineListener& listener) {
        listener.OnEngineReach(name, placement::FromProto(event.reach().missing()));
      });
    }
    for (const v1::EngineEvent& event : events_.events()) {
      if (!event.has_hello()) continue;
      owner_->Tell([&](const std::string& name, EngineListener& listener) {
        listener.OnEngineConnected(name, FromProto(event.hello()));
      });
    }
    const bool leaving = std::ranges::any_of(
        events_.events(), [](const v1::EngineEvent& event) { return event.has_leaving(); });
    bool told = false;
    owner_->Tell([&](const std::string& name, EngineListener& listener) {
      told = true;
      listener.OnEngineEvents(name, FromProto(events_),
                              [self = shared_from_this()] { self->StartRead(&self->events_); });
    });
    if (leaving) {
      owner_->Tell([](const std::string& name, EngineListener& listener) {
        listener.OnEngineLeaving(name);
      });
    }
    if (!told) StartRead(&events_);  // being closed: read to the end
  }

  void OnDone(const grpc::Status& status) override {
    owner_->Tell([&](const std::string& name, EngineListener& listener) {
      listener.OnEngineLost(name, status.ok()
                                      ? absl::UnavailableError("the engine ended the stream")
                                      : rpc::FromGrpc(status));
    });
    {
      MutexLock lock(mutex_);
      done_ =
          true;  // now a new stream may be opened: what it reports comes after the loss of this one
    }
    self_.reset();  // may destroy this
  }

 private:
  const std::shared_ptr<StreamOwner> owner_;
  const StreamPresence presence_;  // above the context: it outlives the call
  std::shared_ptr<Stream> self_;
  grpc::ClientContext context_;
  v1::EngineEvents events_;
  mutable Mutex mutex_;
  std::deque<v1::EngineCommand> unsent_ GUARDED_BY(mutex_);  // the front is being written
  bool finishing_ GUARDED_BY(mutex_) = false;                // nothing comes after what is unsent
  bool closed_ GUARDED_BY(mutex_) = false;
  bool done_ GUARDED_BY(mutex_) = false;
};

class EngineClient final : public EngineLink {
 public:
  EngineClient(const rpc::ChannelOptions& channel, std::string gateway_name,
               std::string engine_name, EngineListener* listener)
      : channel_(channel),
        stub_(v1::EngineService::NewStub(channel_.grpc())),
        gateway_name_(std::move(gateway_name)),
        owner_(std::make_shared<StreamOwner>(std::move(engine_name), listener)) {}

  // A stream must not outlive the channel: gRPC joins its own threads when the last reference to a
  // channel goes, and the stream's goes on one of them.
  ~EngineClient() override {
    Close();
    owner_->WaitForStreams(kCloseTimeout);
  }

  void Start(const SequenceStart& start) override {
    if (!stream_) return;
    v1::EngineCommand command;
    ToProto(start, command.mutable_start());
    stream_->Send(std::move(command));
  }

  void Cancel(uint64_t sequence_id) override {
    if (!stream_) return;
    v1::EngineCommand command;
    command.mutable_cancel()->set_sequence_id(sequence_id);
    stream_->Send(std::move(command));
  }

  void Finish() override {
    if (stream_) stream_->FinishWrites();
  }

  void Close() override {
    owner_->Detach();
    closing_ = true;
    if (stream_) stream_->Close();
    stream_.reset();
  }

  bool closed() const override { return closing_ && !owner_->HasStreams(); }

  void Tick() override {
    if (closing_) return;
    const auto now = std::chrono::steady_clock::now();
    if (stream_ && !stream_->done()) {
      if (now - opened_ > kMostBackoff) backoff_ = kFirstBackoff;
      return;
    }
    if (now < next_attempt_) return;
    opened_ = now;
    next_attempt_ = now + backoff_;
    backoff_ = std::min<std::chrono::milliseconds>(backoff_ * 2, kMostBackoff);
    stream_ = std::make_shared<Stream>(owner_);
    stream_->Open(stub_.get(), channel_, gateway_name_);
  }

 private:
  const rpc::Channel channel_;
  const std::unique_ptr<v1::EngineService::Stub> stub_;
  const std::string gateway_name_;
  const std::shared_ptr<StreamOwner> owner_;
  std::shared_ptr<Stream> stream_;
  bool closing_ = false;
  std::chrono::steady_clock::time_point opened_, next_attempt_;
  std::chrono::milliseconds backoff_{kFirstBackoff};
};

}  // namespace

std::unique_ptr<EngineLink> MakeEngineClient(const rpc::ChannelOptions& channel,
                                             std::string gateway_name, std::string engine_name,
                                             EngineListener* listener) {
  return std::make_unique<EngineClient>(channel, std::move(gateway_name), std::move(engine_name),
                                        listener);
}

}  // namespace conclave::gateway
