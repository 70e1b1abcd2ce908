#include "services/gateway/session_call.h"

#include <map>
#include <string>
#include <utility>

#include "services/gateway/grpc_messages.h"
#include "services/gateway/grpc_prepare.h"
#include "services/gateway/wire_message.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

class SessionCall final : public h2::ServerCall {
 public:
  SessionCall(Frontend* frontend, CallOrigin origin)
      : frontend_(frontend), origin_(OriginOfAll(std::move(origin))) {}

  void OnMessage(std::string_view bytes) override {
    if (!known_ && !MeetClient()) return;
    v1::SessionRequest message;
    const absl::Status parsed = ParseWire(bytes, &message);
    if (!parsed.ok()) {
      Fail("", parsed);
      return;
    }
    if (message.gather()) GatherAs(v1::SessionEvent::kMoreFieldNumber);
    const bool alone = message.more().empty() && !message.gather();
    if (alone || message.action_case() != v1::SessionRequest::ACTION_NOT_SET) {
      Take(&message, bytes.size());
    }
    for (v1::SessionRequest& further : *message.mutable_more()) Take(&further, bytes.size());
  }

  void OnHalfClose() override {
    bool idle = false;
    {
      MutexLock lock(mutex_);
      reading_ended_ = true;
      idle = requests_.empty();
    }
    if (idle) Finish(absl::OkStatus());
  }

  bool idle() override {
    MutexLock lock(mutex_);
    return requests_.empty();
  }

  void OnCancel() override {
    std::map<std::string, Request> requests;
    {
      MutexLock lock(mutex_);
      cancelled_ = true;
      requests.swap(requests_);
    }
    for (const auto& [id, request] : requests) {
      request.interrupt->Cancel();
      if (request.key != 0) frontend_->Abandon(request.key);
    }
  }

  void Send(const std::string& id, v1::GenerateEvent event) {
    v1::SessionEvent message;
    message.set_request_id(id);
    event.set_request_id(id);
    *message.mutable_generate() = std::move(event);
    Write(message);
  }
  void Fail(const std::string& id, const absl::Status& status) {
    v1::SessionEvent message;
    message.set_request_id(id);
    message.mutable_failed()->set_code(static_cast<int32_t>(status.code()));
    message.mutable_failed()->set_message(std::string(status.message()));
    Write(message);
  }
  // The request has had its last event.
  void Over(const std::string& id) {
    bool last = false;
    {
      MutexLock lock(mutex_);
      requests_.erase(id);
      last = reading_ended_ && requests_.empty();
    }
    if (last) Finish(absl::OkStatus());
  }

 private:
  struct Request {
    uint64_t key = 0;  // 0: not submitted yet
    std::shared_ptr<text::Interrupt> interrupt;
  };

  static std::shared_ptr<const CallOrigin> OriginOfAll(CallOrigin origin) {
    origin.request_id.clear();  // one id cannot name many requests
    return std::make_shared<const CallOrigin>(std::move(origin));
  }

  // False: nobody that has a key, and none can come later: the call is ended, so that no stranger
  // keeps one open.
  bool MeetClient() {
    const absl::Status who = frontend_->Authenticate(origin_->authorization).status();
    known_ = who.ok();
    if (known_) return true;
    frontend_->RecordRequest("grpc", "", who);
    Finish(who);
    return false;
  }
  // `message_bytes`: of the message that it is a part of.
  void Take(v1::SessionRequest* action, size_t message_bytes) {
    if (action->has_generate()) {
      StartRequest(std::move(*action->mutable_generate()), message_bytes);
    } else if (action->has_cancel()) {
      CancelRequest(action->cancel().request_id());
    } else {
      Fail("", rpc::InvalidField("action", "is missing: set generate or cancel"));
    }
  }
  void StartRequest(v1::GenerateRequest request, size_t message_bytes);
  void Submit(const std::string& id, const std::shared_ptr<text::Interrupt>& interrupt,
              PreparedRequest prepared);
  void CancelRequest(const std::string& id) {
    {
      MutexLock lock(mutex_);
      const auto found = requests_.find(id);
      if (found != requests_.end() && found->second.key == 0) {
        found->second.interrupt->Cancel();  // it fails as soon as that is noticed
        return;
      }
    }
    const auto principal = frontend_->Authenticate(origin_->authorization);
    if (!principal.ok()) {
      Fail(id, principal.status());
      return;
    }
    const auto self = std::static_pointer_cast<SessionCall>(shared_from_this());
    frontend_->CancelById(**principal, id, [self, id](const absl::Status& status) {
      if (!status.ok()) self->Fail(id, status);
    });
  }

  Frontend* const frontend_;
  const std::shared_ptr<const CallOrigin> origin_;
  bool known_ = false;  // the client has shown a key; I/O thread only
  Mutex mutex_;
  std::map<std::string, Request> requests_ GUARDED_BY(mutex_);  // running, or on their way
  bool reading_ended_ GUARDED_BY(mutex_) = false;
  bool cancelled_ GUARDED_BY(mutex_) = false;
};

class SessionSink final : public GenerationSink {
 public:
  SessionSink(std::shared_ptr<SessionCall> call, const TextModel& model, std::string id)
      : call_(std::move(call)), model_(model), id_(std::move(id)) {}

  void OnStarted(const Started& started) override {
    v1::GenerateEvent event;
    ToProto(started, event.mutable_started());
    call_->Send(id_, std::move(event));
  }
  void OnTokens(const ChoiceTokens& tokens) override {
    v1::GenerateEvent event;
    ToProto(tokens, *model_.tokenizer(), event.mutable_tokens());
    call_->Send(id_, std::move(event));
  }
  void OnFinished(const ChoiceFinished& finished) override {
    v1::GenerateEvent event;
    ToProto(finished, event.mutable_finished());
    call_->Send(id_, std::move(event));
  }
  void OnDone(const Usage& usage) override {
    v1::GenerateEvent event;
    ToProto(usage, event.mutable_usage());
    call_->Send(id_, std::move(event));
    call_->Over(id_);
  }
  void OnFailed(const absl::Status& status) override {
    call_->Fail(id_, status);
    call_->Over(id_);
  }

 private:
  const std::shared_ptr<SessionCall> call_;
  const TextModel& model_;
  const std::string id_;
};

void SessionCall::StartRequest(v1::GenerateRequest request, size_t message_bytes) {
  const std::string id = request.request_id();
  if (id.empty()) {
    Fail(id,
         rpc::InvalidField("request_id", "is missing: requests of a session are told apart by it"));
    return;
  }
  const auto interrupt = std::make_shared<text::Interrupt>(origin_->deadline);
  bool in_use = false;
  {
    MutexLock lock(mutex_);
    if (cancelled_) return;
    in_use = !requests_.emplace(id, Request{.key = 0, .interrupt = interrupt}).second;
  }
  if (in_use) {
    Fail(id, absl::AlreadyExistsError("request id \"" + id + "\" is in use by a running request"));
    return;
  }
  const auto self = std::static_pointer_cast<SessionCall>(shared_from_this());
  auto message = std::make_shared<v1::GenerateRequest>(std::move(request));
  PrepareGrpc(frontend_, {.bytes = message->ByteSizeLong(),
                          .message_bytes = message_bytes,
                          .parse =
                              [message](v1::GenerateRequest* parsed) {
                                parsed->Swap(message.get());
                                return absl::OkStatus();
                              },
                          .origin = origin_,
                          .interrupt = interrupt,
                          .done =
                              [self, id, interrupt](absl::StatusOr<PreparedRequest> prepared) {
                                if (prepared.ok()) {
                                  self->Submit(id, interrupt, *std::move(prepared));
                                  return;
                                }
                                self->Fail(id, prepared.status());
                                self->Over(id);
                              }});
}

void SessionCall::Submit(const std::string& id, const std::shared_ptr<text::Interrupt>& interrupt,
                         PreparedRequest prepared) {
  auto sink = std::make_shared<SessionSink>(
      std::static_pointer_cast<SessionCall>(shared_from_this()), frontend_->model(), id);
  const uint64_t key = frontend_->Submit(std::move(prepared.admission),
                                         std::move(prepared.generation), std::move(sink));
  bool gone = false;
  bool cancelled = false;  // by the client, between the prompt's end and the submission
  {
    MutexLock lock(mutex_);
    const auto found = requests_.find(id);
    // Else it is over already, and the id perhaps a later request's.
    if (found != requests_.end() && found->second.interrupt == interrupt) {
      found->second.key = key;
      cancelled = interrupt->reason() == text::Interrupt::Reason::kCancelled;
    }
    gone = cancelled_;
  }
  if (gone) frontend_->Abandon(key);
  if (cancelled) CancelRequest(id);
}

}  // namespace

std::shared_ptr<h2::ServerCall> MakeSessionCall(Frontend* frontend, const h2::CallStart& start) {
  return std::make_shared<SessionCall>(frontend, CallOrigin::Of(start));
}

}  // namespace conclave::gateway
