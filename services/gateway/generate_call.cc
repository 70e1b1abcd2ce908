#include "services/gateway/generate_call.h"

#include <string>
#include <utility>

#include "services/gateway/generation_call.h"
#include "services/gateway/grpc_messages.h"

namespace conclave::gateway {

namespace {

class GenerateSink final : public GenerationSink {
 public:
  GenerateSink(std::shared_ptr<h2::ServerCall> call, const TextModel& model, std::string request_id)
      : call_(std::move(call)), model_(model), request_id_(std::move(request_id)) {}

  void OnStarted(const Started& started) override {
    Push([&](v1::GenerateEvent* event) { ToProto(started, event->mutable_started()); });
  }
  void OnTokens(const ChoiceTokens& tokens) override {
    Push([&](v1::GenerateEvent* event) {
      ToProto(tokens, *model_.tokenizer(), event->mutable_tokens());
    });
  }
  void OnFinished(const ChoiceFinished& finished) override {
    Push([&](v1::GenerateEvent* event) { ToProto(finished, event->mutable_finished()); });
  }
  void OnDone(const Usage& usage) override {
    Push([&](v1::GenerateEvent* event) { ToProto(usage, event->mutable_usage()); });
    call_->Finish(absl::OkStatus());
  }
  void OnFailed(const absl::Status& status) override { call_->Finish(status); }

 private:
  template <typename Fill>
  void Push(Fill fill) {
    v1::GenerateEvent event;
    event.set_request_id(request_id_);
    fill(&event);
    call_->Write(event);
  }

  const std::shared_ptr<h2::ServerCall> call_;
  const TextModel& model_;
  const std::string request_id_;
};

class GenerateCall final : public GenerationCall {
 public:
  using GenerationCall::GenerationCall;

 private:
  std::shared_ptr<GenerationSink> MakeSink(const Generation& generation) override {
    return std::make_shared<GenerateSink>(shared_from_this(), frontend().model(),
                                          generation.request_id);
  }
};

}  // namespace

std::shared_ptr<h2::ServerCall> MakeGenerateCall(Frontend* frontend, const h2::CallStart& start) {
  return std::make_shared<GenerateCall>(frontend, CallOrigin::Of(start));
}

}  // namespace conclave::gateway
