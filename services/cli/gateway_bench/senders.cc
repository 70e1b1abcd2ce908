#include "services/cli/gateway_bench/senders.h"

#include <deque>
#include <utility>

#include "absl/strings/str_format.h"
#include "conclave/v1/inference.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "shared/base/mutex.h"
#include "shared/rpc/status.h"

namespace conclave::cli {
namespace {

using RawStub = grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer>;

constexpr char kComplete[] = "/conclave.v1.InferenceService/Complete";
constexpr char kSession[] = "/conclave.v1.InferenceService/Session";
// In one message.
constexpr int kMostGathered = 64;
constexpr Duration kEndPatience = std::chrono::seconds(5);

}  // namespace

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

grpc::ByteBuffer BufferOf(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

grpc::ByteBuffer BufferOf(const google::protobuf::MessageLite& message) {
  return BufferOf(message.SerializeAsString());
}

Connections::Connections(const std::string& address, int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    channels_.emplace_back(rpc::ChannelOptions{.address = address, .secret = {}});
  }
}

CompleteSender::~CompleteSender() {
  MutexLock lock(mutex_);
  for (grpc::ClientContext* const context : calls_) context->TryCancel();
  while (running_ > 0) changed_.WaitFor(mutex_, kEndPatience);
}

void CompleteSender::Send(const grpc::ByteBuffer& request, std::chrono::milliseconds timeout,
                          Answered answered, SentDone done) {
  struct Call {
    grpc::ClientContext context;
    grpc::ByteBuffer request, answer;
    Answered answered;
    SentDone done;
  };
  auto call = std::make_shared<Call>();
  const rpc::Channel& channel = connections_->Next();
  channel.Prepare(&call->context, timeout);
  call->context.AddMetadata("authorization", authorization_);
  call->request = request;
  {
    MutexLock lock(mutex_);
    calls_.insert(&call->context);
    ++running_;
  }
  call->answered = std::move(answered);
  call->done = std::move(done);
  RawStub(channel.grpc())
      .UnaryCall(&call->context, kComplete, {}, &call->request, &call->answer,
                 [this, call](const grpc::Status& status) mutable {
                   if (status.ok() && call->answered) call->answered(call->answer);
                   const SentDone done = std::move(call->done);
                   grpc::ClientContext* const context = &call->context;
                   {
                     MutexLock lock(mutex_);
                     calls_.erase(context);
                   }
                   // First: the last use of a channel must not end on one of gRPC's threads, which
                   // would wait for itself (gRPC 1.51).
                   call.reset();
                   done(rpc::FromGrpc(status));
                   MutexLock lock(mutex_);
                   if (--running_ == 0) changed_.NotifyAll();
                 });
}

// One write and one read at a time.
class SessionSender::Stream final
    : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit Stream(bool gather) : gather_(gather) {}

  void Start(const rpc::Channel& channel, const std::string& api_key) {
    channel.Prepare(&context_, std::chrono::milliseconds(0));
    context_.AddMetadata("authorization", "Bearer " + api_key);
    RawStub(channel.grpc()).PrepareBidiStreamingCall(&context_, kSession, {}, this);
    AddHold();  // writes start outside reactions
    StartRead(&incoming_);
    StartCall();
  }

  void Send(v1::GenerateRequest request, SentDone done) EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (!closing_) {
        request.set_request_id(absl::StrFormat("%08d", next_id_++));
        waiting_.push_back(std::move(done));
        unsent_.push_back(std::move(request));
      }
    }
    if (done) {
      done(absl::UnavailableError("the session has ended"));
    } else {
      WriteNext();
    }
  }

  void OnWriteDone(bool ok) override {
    bool close = false;
    {
      MutexLock lock(mutex_);
      writing_ = false;
      if (!ok) unsent_.clear();  // the stream ends, and with it what waits
      close = ok && unsent_.empty() && closing_;
    }
    if (close) {
      StartWritesDone();
    } else {
      WriteNext();
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    v1::SessionEvent event;
    grpc::ByteBuffer bytes = incoming_;
    const bool parsed =
        grpc::SerializationTraits<v1::SessionEvent>::Deserialize(&bytes, &event).ok();
    {
      MutexLock lock(mutex_);
      if (keep_) kept_.push_back(incoming_);
    }
    StartRead(&incoming_);
    if (!parsed) {
      EndFirst(absl::InternalError("an event of the session is no SessionEvent"));
      return;
    }
    Take(event);
    for (const v1::SessionEvent& further : event.more()) Take(further);
  }

  void OnDone(const grpc::Status& status) override {
    std::deque<SentDone> waiting;
    {
      MutexLock lock(mutex_);
      closing_ = true;
      waiting.swap(waiting_);
    }
    const absl::Status why =
        status.ok() ? absl::UnavailableError("the session has ended") : rpc::FromGrpc(status);
    for (const SentDone& done : waiting) done(why);
    MutexLock lock(mutex_);
    ended_ = true;  // may destroy this when the lock is free
    changed_.NotifyAll();
  }

  // Returns when gRPC is done with the stream.
  void Close() EXCLUDES(mutex_) {
    bool now = false;
    {
      MutexLock lock(mutex_);
      now = unsent_.empty() && !writing_ && !closing_;
      closing_ = true;
    }
    if (now) StartWritesDone();
    RemoveHold();
    const auto deadline = std::chrono::steady_clock::now() + kEndPatience;
    MutexLock lock(mutex_);
    while (!ended_) {
      if (std::chrono::steady_clock::now() > deadline) context_.TryCancel();
      changed_.WaitFor(mutex_, std::chrono::milliseconds(50));
    }
  }

  void KeepMessages() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    keep_ = true;
  }
  std::vector<grpc::ByteBuffer> TakeMessages() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    keep_ = false;
    return std::exchange(kept_, {});
  }

 private:
  void Take(const v1::SessionEvent& event) {
    if (event.has_failed()) {
      EndFirst(absl::Status(static_cast<absl::StatusCode>(event.failed().code()),
                            event.failed().message()));
    } else if (event.generate().has_usage()) {
      EndFirst(absl::OkStatus());
    }
  }

  // The request that has waited longest has its answer.
  void EndFirst(const absl::Status& status) EXCLUDES(mutex_) {
    SentDone done;
    {
      MutexLock lock(mutex_);
      if (waiting_.empty()) return;
      done = std::move(waiting_.front());
      waiting_.pop_front();
    }
    done(status);
  }

  // What waits, unless something is being written.
  void WriteNext() EXCLUDES(mutex_) {
    v1::SessionRequest message;
    {
      MutexLock lock(mutex_);
      if (writing_ || unsent_.empty()) return;
      writing_ = true;
      *message.mutable_generate() = std::move(unsent_.front());
      unsent_.pop_front();
      message.set_gather(gather_);
      while (gather_ && !unsent_.empty() && message.more_size() < kMostGathered) {
        *message.add_more()->mutable_generate() = std::move(unsent_.front());
        unsent_.pop_front();
      }
    }
    outgoing_ = BufferOf(message);
    StartWrite(&outgoing_);
  }

  const bool gather_;
  grpc::ClientContext context_;
  grpc::ByteBuffer incoming_, outgoing_;
  Mutex mutex_;
  CondVar changed_;
  int32_t next_id_ GUARDED_BY(mutex_) = 0;
  std::deque<v1::GenerateRequest> unsent_ GUARDED_BY(mutex_);
  bool writing_ GUARDED_BY(mutex_) = false;
  std::deque<SentDone> waiting_ GUARDED_BY(mutex_);
  std::vector<grpc::ByteBuffer> kept_ GUARDED_BY(mutex_);
  bool keep_ GUARDED_BY(mutex_) = false;
  bool closing_ GUARDED_BY(mutex_) = false;
  bool ended_ GUARDED_BY(mutex_) = false;
};

SessionSender::SessionSender(const rpc::Channel& channel, const std::string& api_key, bool gather)
    : stream_(std::make_unique<Stream>(gather)) {
  stream_->Start(channel, api_key);
}
SessionSender::~SessionSender() { stream_->Close(); }
void SessionSender::Send(const v1::GenerateRequest& request, SentDone done) {
  stream_->Send(request, std::move(done));
}
void SessionSender::KeepMessages() { stream_->KeepMessages(); }
std::vector<grpc::ByteBuffer> SessionSender::TakeMessages() { return stream_->TakeMessages(); }

}  // namespace conclave::cli
