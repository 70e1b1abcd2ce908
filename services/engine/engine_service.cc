#include "services/engine/engine_service.h"

#include <set>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/engine/engine_messages.h"
#include "shared/base/check.h"
#include "shared/base/log.h"
#include "shared/placement/topology_proto.h"
#include "shared/rpc/server.h"

namespace conclave::engine {

// The stream of one gateway. gRPC allows one read and one write at a time; what comes while a write
// is under way is sent together in the next one, and Finish waits for the write under way. gRPC is
// called without the lock.
class EngineService::GatewayStream final
    : public grpc::ServerBidiReactor<v1::EngineCommand, v1::EngineEvents> {
 public:
  GatewayStream(EngineService* service, grpc::CallbackServerContext* context,
                std::shared_ptr<const Serving> serving, uint64_t id)
      : service_(*service),
        context_(*context),
        serving_(std::move(serving)),
        id_(id),
        gateway_(context->peer()) {
    v1::EngineHello* message = unsent_.add_events()->mutable_hello();
    message->set_fingerprint(serving_->identity.fingerprint);
    message->set_served_name(serving_->identity.served_name);
    message->set_numerics_class(serving_->identity.numerics_class);
    message->set_context_tokens(serving_->limits.context_tokens);
    message->set_vocab_size(serving_->limits.vocab_size);
    message->set_system_fingerprint(serving_->identity.system_fingerprint);
    message->set_max_running(serving_->identity.max_running);
    message->set_kv_tokens(serving_->identity.kv_tokens);
    message->set_prefix_cache(serving_->identity.prefix_cache);
  }

  void Open() {
    Advance();
    StartRead(&command_);
  }

  void TellReach() EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      reach_due_ = true;
    }
    Advance();
  }

  void TellLeaving() {
    v1::EngineEvents message;
    message.add_events()->mutable_leaving();
    Send(std::move(message));
  }

  void Deliver(std::span<const SequenceEvent> events) EXCLUDES(mutex_) {
    v1::EngineEvents message;
    for (const SequenceEvent& event : events) WriteEvent(event, message.add_events());
    {
      MutexLock lock(mutex_);
      for (const SequenceEvent& event : events) {
        if (!event.IsLast()) continue;
        live_.erase(event.sequence_id);
        cancelled_.erase(event.sequence_id);
      }
    }
    Send(std::move(message));
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      End(grpc::Status::OK);
      return;
    }
    switch (command_.command_case()) {
      case v1::EngineCommand::kHello:
        gateway_ = command_.hello().name();
        LogInfo("gateway connected", {{"gateway", gateway_}, {"stream", id_}});
        break;
      case v1::EngineCommand::kStart:
        StartSequence(command_.start());
        break;
      case v1::EngineCommand::kCancel:
        CancelSequence(command_.cancel().sequence_id());
        break;
      case v1::EngineCommand::COMMAND_NOT_SET:
        End(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT,
                         "a command is empty: hello, start or cancel is needed"));
        return;
    }
    StartRead(&command_);
  }

  void OnWriteDone(bool ok) override EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      writing_ = false;
    }
    if (!ok) End(grpc::Status::CANCELLED);
    Advance();
  }

  void OnCancel() override { End(grpc::Status::CANCELLED); }

  void OnDone() override {
    LogInfo("gateway gone", {{"gateway", gateway_}, {"stream", id_}});
    service_.Forget(id_);
  }

 private:
  void StartSequence(const v1::StartSequence& start) EXCLUDES(mutex_) {
    const uint64_t sequence_id = start.sequence_id();
    const absl::Status status = TryStart(start);
    if (status.ok()) return;
    service_.metrics_.CountError(status.code());
    LogInfo("sequence refused", {{"request_id", start.request_id()},
                                 {"code", absl::StatusCodeToString(status.code())}});
    v1::EngineEvents message;
    v1::EngineEvent* event = message.add_events();
    WriteFailure(sequence_id, status, event);
    event->mutable_failed()->set_refused(absl::IsUnavailable(status));
    Send(std::move(message));
  }

  absl::Status TryStart(const v1::StartSequence& start) EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (!live_.insert(start.sequence_id()).second) {
        return absl::AlreadyExistsError(absl::StrCat(
            "sequence_id ", start.sequence_id(),
            " is in use on this stream: this start is refused, the first one goes on"));
      }
    }
    auto request = ReadStart(start, id_, service_.clock_.Now(), serving_->identity.fingerprint,
                             serving_->limits);
    const absl::Status status =
        request.ok() ? serving_->loop->Start(*std::move(request)) : request.status();
    if (!status.ok()) {
      MutexLock lock(mutex_);
      live_.erase(start.sequence_id());
    }
    return status;
  }

  // Unknown ids stay here, so that a gateway cannot fill the loop's queue with them.
  void CancelSequence(uint64_t sequence_id) EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (!live_.contains(sequence_id) || !cancelled_.insert(sequence_id).second) return;
    }
    serving_->loop->Cancel({id_, sequence_id});
  }

  void Send(v1::EngineEvents message) EXCLUDES(mutex_) {
    bool overflow = false;
    {
      MutexLock lock(mutex_);
      if (ended_) return;
      unsent_.MergeFrom(message);
      overflow = writing_ &&
                 static_cast<size_t>(unsent_.events_size()) > service_.options_.max_unsent_events;
      cancelling_ = overflow;
    }
    if (overflow) {
      CutOff();
    } else {
      Advance();
    }
  }

  // The write under way does not end by itself, because the gateway does not read.
  void CutOff() EXCLUDES(mutex_) {
    LogWarning("gateway cut off: it does not read its events", {{"stream", id_}});
    End(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the events are not read fast enough"));
    context_.TryCancel();
    {
      MutexLock lock(mutex_);
      cancelling_ = false;
    }
    Advance();
  }

  // Nothing more is taken or sent, the sequences are cancelled, and the call finishes as soon as it
  // can. The first status counts.
  void End(const grpc::Status& status) EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (ended_) return;
      ended_ = true;
      status_ = status;
      unsent_.Clear();
    }
    serving_->loop->CancelStream(id_);
    Advance();
  }

  // Starts what may be next: a write, or the finish, after which this object may be gone.
  void Advance() EXCLUDES(mutex_) {
    grpc::Status status;
    bool finish = false;
    bool reach = false;
    {
      MutexLock lock(mutex_);
      if (writing_ || cancelling_ || finished_) return;
      if (ended_) {
        finish = finished_ = true;
        status = status_;
      } else if (unsent_.events_size() > 0 || reach_due_) {
        writing_ = true;
        reach = std::exchange(reach_due_, false);
        sending_.Clear();
        sending_.Swap(&unsent_);
      } else {
        return;
      }
    }
    if (finish) {
      Finish(status);
    } else {
      // Asked for after the flag was taken down: of two changes the later one is told last.
      if (reach) service_.WriteReach(sending_.add_events()->mutable_reach());
      StartWrite(&sending_);
    }
  }

  EngineService& service_;
  grpc::CallbackServerContext& context_;  // lives until OnDone
  const std::shared_ptr<const Serving> serving_;
  const uint64_t id_;
  std::string gateway_;        // of the reading side
  v1::EngineCommand command_;  // the read under way
  v1::EngineEvents sending_;   // the write under way

  Mutex mutex_;
  v1::EngineEvents unsent_ GUARDED_BY(mutex_);
  std::set<uint64_t> live_ GUARDED_BY(mutex_);       // started, without their last event
  std::set<uint64_t> cancelled_ GUARDED_BY(mutex_);  // of those
  grpc::Status status_ GUARDED_BY(mutex_);           // of the end
  bool reach_due_ GUARDED_BY(mutex_) = true;         // what the engine reaches is to be told
  bool writing_ GUARDED_BY(mutex_) = false;
  bool cancelling_ GUARDED_BY(mutex_) = false;  // context_ is in use: no finish yet
  bool ended_ GUARDED_BY(mutex_) = false;       // takes and sends nothing more
  bool finished_ GUARDED_BY(mutex_) = false;    // Finish was called
};

EngineService::EngineService(const Options& options, EngineMetrics* metrics, const Clock* clock)
    : options_(options), metrics_(*metrics), clock_(*clock) {}

EngineService::~EngineService() {
  MutexLock lock(mutex_);
  CONCLAVE_CHECK(streams_.empty());
}

void EngineService::Open(const EngineIdentity& identity, const SequenceLimits& limits,
                         StepLoop* loop) {
  auto serving = std::make_shared<Serving>(Serving{identity, limits, loop});
  MutexLock lock(mutex_);
  serving_ = std::move(serving);
}

grpc::ServerBidiReactor<v1::EngineCommand, v1::EngineEvents>* EngineService::Connect(
    grpc::CallbackServerContext* context) {
  grpc::Status shown = options_.secret.Check(*context);
  if (shown.ok() && options_.cluster != nullptr) shown = options_.cluster->Check(*context);
  if (!shown.ok()) return rpc::RefuseStream<v1::EngineCommand, v1::EngineEvents>(shown);
  std::shared_ptr<GatewayStream> stream;
  std::string why;
  {
    MutexLock lock(mutex_);
    if (leaving_) {
      why = "the engine is draining: use another one, or try again later";
    } else if (serving_ == nullptr) {
      why = "the engine is loading its model: try again later";
    } else {
      const uint64_t id = next_stream_++;
      stream = std::make_shared<GatewayStream>(this, context, serving_, id);
      streams_.emplace(id, stream);
    }
  }
  if (stream == nullptr) {
    return rpc::RefuseStream<v1::EngineCommand, v1::EngineEvents>(
        grpc::Status(grpc::StatusCode::UNAVAILABLE, why));
  }
  stream->Open();
  return stream.get();  // lives until OnDone
}

void EngineService::SetMissing(placement::ExpertKeys missing) {
  {
    MutexLock lock(mutex_);
    missing_ = std::move(missing);
  }
  TellReach();
}

void EngineService::OnTurn() { TellReach(); }

std::vector<std::shared_ptr<EngineService::GatewayStream>> EngineService::Streams() const {
  std::vector<std::shared_ptr<GatewayStream>> streams;
  MutexLock lock(mutex_);
  for (const auto& [id, stream] : streams_) streams.push_back(stream);
  return streams;
}

void EngineService::TellReach() {
  for (const auto& stream : Streams()) stream->TellReach();
}

void EngineService::Leave() {
  {
    MutexLock lock(mutex_);
    leaving_ = true;
  }
  for (const auto& stream : Streams()) stream->TellLeaving();
}

bool EngineService::WaitUntilAlone(Duration timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(mutex_);
  while (!streams_.empty()) {
    if (!alone_.WaitUntil(mutex_, deadline) && std::chrono::steady_clock::now() >= deadline) break;
  }
  return streams_.empty();
}

void EngineService::WriteReach(v1::EngineReach* message) const {
  MutexLock lock(mutex_);
  placement::ToProto(missing_, message->mutable_missing());
}

void EngineService::Deliver(uint64_t id, std::vector<SequenceEvent> events) {
  std::shared_ptr<GatewayStream> stream;
  {
    MutexLock lock(mutex_);
    const auto at = streams_.find(id);
    if (at == streams_.end()) return;
    stream = at->second;
  }
  stream->Deliver(events);
}

void EngineService::Forget(uint64_t id) {
  std::shared_ptr<GatewayStream> last;  // dies after the lock is free
  MutexLock lock(mutex_);
  const auto at = streams_.find(id);
  last = std::move(at->second);
  streams_.erase(at);
  if (streams_.empty()) alone_.NotifyAll();
}

}  // namespace conclave::engine
