#include "services/gateway/complete_call.h"

#include <utility>

#include "services/gateway/generation_call.h"
#include "services/gateway/grpc_messages.h"

namespace conclave::gateway {

namespace {

class CompleteSink final : public GenerationSink {
 public:
  CompleteSink(std::shared_ptr<RequestCall> call, const TextModel& model, int32_t num_choices)
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
  void OnFailed(const absl::Status& status) override { call_->Finish(status); }

 private:
  const std::shared_ptr<RequestCall> call_;
  const TextModel& model_;
  v1::CompleteResponse answer_;
};

class CompleteCall final : public GenerationCall {
 public:
  using GenerationCall::GenerationCall;

 private:
  std::shared_ptr<GenerationSink> MakeSink(const Generation& generation) override {
    return std::make_shared<CompleteSink>(std::static_pointer_cast<RequestCall>(shared_from_this()),
                                          frontend().model(), generation.num_choices);
  }
};

}  // namespace

std::shared_ptr<h2::ServerCall> MakeCompleteCall(Frontend* frontend, const h2::CallStart& start) {
  return std::make_shared<CompleteCall>(frontend, CallOrigin::Of(start));
}

}  // namespace conclave::gateway
