#include "services/gateway/complete_call.h"

#include <utility>

#include "services/gateway/grpc_messages.h"
#include "services/gateway/grpc_prepare.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

class CompleteCall final : public grpc::ServerUnaryReactor,
                           public std::enable_shared_from_this<CompleteCall> {
 public:
  CompleteCall(Frontend* frontend, v1::CompleteResponse* response)
      : frontend_(frontend), response_(response) {}

  void Begin(const grpc::CallbackServerContext& context, const v1::GenerateRequest& request);
  // Only the first call ends the call.
  void End(const grpc::Status& status) EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (ended_) return;
      ended_ = true;
    }
    Finish(status);
  }
  // Hands over the finished answer.
  void Succeed(v1::CompleteResponse* answer) EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (ended_) return;
      ended_ = true;
      response_->Swap(answer);
    }
    Finish(grpc::Status::OK);
  }
  void OnCancel() override {
    uint64_t key = 0;
    {
      MutexLock lock(mutex_);
      cancelled_ = true;
      key = key_;
    }
    if (key != 0) frontend_->Abandon(key);
    End(grpc::Status(grpc::StatusCode::CANCELLED, "the client has gone"));
  }
  void OnDone() override { self_.reset(); }  // may destroy this

 private:
  Frontend* const frontend_;
  v1::CompleteResponse* const response_;
  std::shared_ptr<CompleteCall> self_;
  Mutex mutex_;
  uint64_t key_ GUARDED_BY(mutex_) = 0;
  bool cancelled_ GUARDED_BY(mutex_) = false;
  bool ended_ GUARDED_BY(mutex_) = false;
};

class CompleteSink final : public GenerationSink {
 public:
  CompleteSink(std::shared_ptr<CompleteCall> call, const TextModel& model, int32_t num_choices)
      : call_(std::move(call)), model_(model) {
    for (int32_t i = 0; i < num_choices; ++i) answer_.add_choices()->set_choice_index(i);
  }

  void OnStarted(const Started& started) override { ToProto(started, answer_.mutable_started()); }
  void OnTokens(const ChoiceTokens& tokens) override {
    v1::TokensGenerated event;
    ToProto(tokens, *model_.tokenizer(), &event);
    v1::CompletedChoice* const choice = answer_.mutable_choices(tokens.choice_index);
    choice->mutable_text()->append(event.text());
    choice->mutable_logprobs()->MergeFrom(event.logprobs());
  }
  void OnFinished(const ChoiceFinished& finished) override {
    v1::ChoiceFinished event;
    ToProto(finished, &event);
    v1::CompletedChoice* const choice = answer_.mutable_choices(finished.choice_index);
    choice->mutable_text()->append(event.text());
    choice->mutable_ids()->Swap(event.mutable_ids());
    choice->set_reason(event.reason());
    choice->set_stop(event.stop());
  }
  void OnDone(const Usage& usage) override {
    ToProto(usage, answer_.mutable_usage());
    call_->Succeed(&answer_);
  }
  void OnFailed(const absl::Status& status) override { call_->End(rpc::ToGrpc(status)); }

 private:
  const std::shared_ptr<CompleteCall> call_;
  const TextModel& model_;
  v1::CompleteResponse answer_;
};

void CompleteCall::Begin(const grpc::CallbackServerContext& context,
                         const v1::GenerateRequest& request) {
  self_ = shared_from_this();
  absl::StatusOr<PreparedRequest> prepared =
      PrepareGrpc(frontend_, request, CallOrigin::Of(context, frontend_->clock()));
  if (!prepared.ok()) {
    End(rpc::ToGrpc(prepared.status()));
    return;
  }
  auto sink =
      std::make_shared<CompleteSink>(self_, frontend_->model(), prepared->generation.num_choices);
  const uint64_t key = frontend_->Submit(std::move(prepared->admission),
                                         std::move(prepared->generation), std::move(sink));
  bool cancelled = false;
  {
    MutexLock lock(mutex_);
    key_ = key;
    cancelled = cancelled_;
  }
  if (cancelled) frontend_->Abandon(key);
}

}  // namespace

grpc::ServerUnaryReactor* StartCompleteCall(Frontend* frontend,
                                            const grpc::CallbackServerContext& context,
                                            const v1::GenerateRequest& request,
                                            v1::CompleteResponse* response) {
  auto call = std::make_shared<CompleteCall>(frontend, response);
  call->Begin(context, request);
  return call.get();
}

}  // namespace conclave::gateway
