#include "services/gateway/session_call.h"

#include <map>
#include <string>
#include <utility>

#include "services/gateway/grpc_messages.h"
#include "services/gateway/grpc_prepare.h"
#include "services/gateway/queued_writer.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

using SessionReactor = grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionEvent>;

class SessionCall final : public QueuedWriter<SessionReactor, v1::SessionEvent> {
 public:
  SessionCall(Frontend* frontend, CallOrigin origin)
      : frontend_(frontend), origin_(std::move(origin)) {
    origin_.request_id.clear();  // one id cannot name many requests
  }

  void Begin() { StartRead(&request_); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      bool idle = false;
      {
        MutexLock lock(keys_mutex_);
        reading_ended_ = true;
        idle = keys_.empty();
      }
      if (idle) End(grpc::Status::OK);
      return;
    }
    if (request_.has_generate()) {
      StartRequest(request_.generate());
    } else if (request_.has_cancel()) {
      CancelRequest(request_.cancel().request_id());
    } else {
      Fail("", rpc::InvalidField("action", "is missing: set generate or cancel"));
    }
    StartRead(&request_);
  }

  void OnCancel() override {
    std::map<std::string, uint64_t> keys;
    {
      MutexLock lock(keys_mutex_);
      cancelled_ = true;
      keys.swap(keys_);
    }
    for (const auto& [id, key] : keys) {
      if (key != 0) frontend_->Abandon(key);
    }
    Abort(grpc::Status(grpc::StatusCode::CANCELLED, "the client has gone"));
  }

  void Send(const std::string& id, v1::GenerateEvent event) {
    v1::SessionEvent message;
    message.set_request_id(id);
    event.set_request_id(id);
    *message.mutable_generate() = std::move(event);
    if (!Push(std::move(message))) OnCancel();
  }
  void Fail(const std::string& id, const absl::Status& status) {
    v1::SessionEvent message;
    message.set_request_id(id);
    message.mutable_failed()->set_code(static_cast<int32_t>(status.code()));
    message.mutable_failed()->set_message(std::string(status.message()));
    Push(std::move(message));
  }
  // The request has had its last event.
  void Over(const std::string& id) {
    bool last = false;
    {
      MutexLock lock(keys_mutex_);
      keys_.erase(id);
      last = reading_ended_ && keys_.empty();
    }
    if (last) End(grpc::Status::OK);
  }

 private:
  void StartRequest(const v1::GenerateRequest& request);
  void CancelRequest(const std::string& id) {
    const auto self = std::static_pointer_cast<SessionCall>(shared_from_this());
    frontend_->CancelById(id, [self, id](const absl::Status& status) {
      if (!status.ok()) self->Fail(id, status);
    });
  }

  Frontend* const frontend_;
  CallOrigin origin_;
  v1::SessionRequest request_;  // being read
  Mutex keys_mutex_;
  std::map<std::string, uint64_t> keys_
      GUARDED_BY(keys_mutex_);  // running requests; 0: being submitted
  bool reading_ended_ GUARDED_BY(keys_mutex_) = false;
  bool cancelled_ GUARDED_BY(keys_mutex_) = false;
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

void SessionCall::StartRequest(const v1::GenerateRequest& request) {
  const std::string id = request.request_id();
  if (id.empty()) {
    Fail(id,
         rpc::InvalidField("request_id", "is missing: requests of a session are told apart by it"));
    return;
  }
  bool in_use = false;
  {
    MutexLock lock(keys_mutex_);
    if (cancelled_) return;
    in_use = !keys_.emplace(id, 0).second;
  }
  if (in_use) {
    Fail(id, absl::AlreadyExistsError("request id \"" + id + "\" is in use by a running request"));
    return;
  }
  absl::StatusOr<PreparedRequest> prepared = PrepareGrpc(frontend_, request, origin_);
  if (!prepared.ok()) {
    Fail(id, prepared.status());
    Over(id);
    return;
  }
  auto sink = std::make_shared<SessionSink>(
      std::static_pointer_cast<SessionCall>(shared_from_this()), frontend_->model(), id);
  const uint64_t key = frontend_->Submit(std::move(prepared->admission),
                                         std::move(prepared->generation), std::move(sink));
  bool cancelled = false;
  {
    MutexLock lock(keys_mutex_);
    const auto found = keys_.find(id);
    if (found != keys_.end()) found->second = key;  // else it is over already
    cancelled = cancelled_;
  }
  if (cancelled) frontend_->Abandon(key);
}

}  // namespace

grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionEvent>* StartSessionCall(
    Frontend* frontend, const grpc::CallbackServerContext& context) {
  auto call = std::make_shared<SessionCall>(frontend, CallOrigin::Of(context, frontend->clock()));
  call->KeepAlive();
  call->Begin();
  return call.get();
}

}  // namespace conclave::gateway
