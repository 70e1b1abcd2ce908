#include "services/gateway/complete_call.h"

#include <utility>

#include "services/gateway/grpc_messages.h"
#include "services/gateway/grpc_prepare.h"
#include "services/gateway/unary_call.h"
#include "services/gateway/wire_message.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

class CompleteCall final : public UnaryCall {
 public:
  CompleteCall(Frontend* frontend, grpc::ByteBuffer* response, CallOrigin origin)
      : UnaryCall(response, origin.deadline),
        frontend_(frontend),
        origin_(std::make_shared<const CallOrigin>(std::move(origin))) {}

  void Begin(const grpc::ByteBuffer& request);
  void OnCancel() override {
    uint64_t key = 0;
    {
      MutexLock lock(mutex_);
      cancelled_ = true;
      key = key_;
    }
    if (key != 0) frontend_->Abandon(key);
    UnaryCall::OnCancel();
  }

 private:
  void Submit(PreparedRequest prepared);

  Frontend* const frontend_;
  const std::shared_ptr<const CallOrigin> origin_;
  Mutex mutex_;
  uint64_t key_ GUARDED_BY(mutex_) = 0;
  bool cancelled_ GUARDED_BY(mutex_) = false;
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
    call_->Succeed(answer_);
  }
  void OnFailed(const absl::Status& status) override { call_->End(rpc::ToGrpc(status)); }

 private:
  const std::shared_ptr<CompleteCall> call_;
  const TextModel& model_;
  v1::CompleteResponse answer_;
};

void CompleteCall::Begin(const grpc::ByteBuffer& request) {
  const auto self = std::static_pointer_cast<CompleteCall>(shared_from_this());
  PrepareGrpc(
      frontend_,
      {.bytes = request.Length(),
       .parse = [request](v1::GenerateRequest* message) { return ParseWire(request, message); },
       .origin = origin_,
       .interrupt = interrupt(),
       .done =
           [self](absl::StatusOr<PreparedRequest> prepared) {
             prepared.ok() ? self->Submit(*std::move(prepared))
                           : self->End(rpc::ToGrpc(prepared.status()));
           }});
}

void CompleteCall::Submit(PreparedRequest prepared) {
  auto sink =
      std::make_shared<CompleteSink>(std::static_pointer_cast<CompleteCall>(shared_from_this()),
                                     frontend_->model(), prepared.generation.num_choices);
  const uint64_t key = frontend_->Submit(std::move(prepared.admission),
                                         std::move(prepared.generation), std::move(sink));
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
                                            const grpc::ByteBuffer& request,
                                            grpc::ByteBuffer* response) {
  auto call = std::make_shared<CompleteCall>(frontend, response,
                                             CallOrigin::Of(context, frontend->clock()));
  call->KeepAlive();
  call->Begin(request);
  return call.get();
}

}  // namespace conclave::gateway
