#include "services/gateway/grpc_service.h"

#include <chrono>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "services/gateway/complete_call.h"
#include "services/gateway/grpc_messages.h"
#include "services/gateway/grpc_prepare.h"
#include "services/gateway/queued_writer.h"
#include "services/gateway/session_call.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

// One streamed request.
class GenerateCall final
    : public QueuedWriter<grpc::ServerWriteReactor<v1::GenerateEvent>, v1::GenerateEvent> {
 public:
  explicit GenerateCall(Frontend* frontend) : frontend_(frontend) {}

  void Begin(const grpc::CallbackServerContext& context, const v1::GenerateRequest& request);

  void OnCancel() override {
    uint64_t key = 0;
    {
      MutexLock lock(key_mutex_);
      cancelled_ = true;
      key = key_;
    }
    if (key != 0) frontend_->Abandon(key);
    Abort(grpc::Status(grpc::StatusCode::CANCELLED, "the client has gone"));
  }

 private:
  Frontend* const frontend_;
  Mutex key_mutex_;
  uint64_t key_ GUARDED_BY(key_mutex_) = 0;
  bool cancelled_ GUARDED_BY(key_mutex_) = false;
};

class GenerateSink final : public GenerationSink {
 public:
  GenerateSink(std::shared_ptr<GenerateCall> call, const TextModel& model, std::string request_id)
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
    call_->End(grpc::Status::OK);
  }
  void OnFailed(const absl::Status& status) override { call_->End(rpc::ToGrpc(status)); }

 private:
  template <typename Fill>
  void Push(Fill fill) {
    v1::GenerateEvent event;
    event.set_request_id(request_id_);
    fill(&event);
    if (!call_->Push(std::move(event))) call_->OnCancel();
  }

  const std::shared_ptr<GenerateCall> call_;
  const TextModel& model_;
  const std::string request_id_;
};

void GenerateCall::Begin(const grpc::CallbackServerContext& context,
                         const v1::GenerateRequest& request) {
  absl::StatusOr<PreparedRequest> prepared =
      PrepareGrpc(frontend_, request, CallOrigin::Of(context, frontend_->clock()));
  if (!prepared.ok()) {
    End(rpc::ToGrpc(prepared.status()));
    return;
  }
  auto sink =
      std::make_shared<GenerateSink>(std::static_pointer_cast<GenerateCall>(shared_from_this()),
                                     frontend_->model(), prepared->generation.request_id);
  const uint64_t key = frontend_->Submit(std::move(prepared->admission),
                                         std::move(prepared->generation), std::move(sink));
  bool cancelled = false;
  {
    MutexLock lock(key_mutex_);
    key_ = key;
    cancelled = cancelled_;
  }
  if (cancelled) frontend_->Abandon(key);
}

class InferenceServiceImpl final : public v1::InferenceService::CallbackService {
 public:
  explicit InferenceServiceImpl(Frontend* frontend) : frontend_(frontend) {}

  grpc::ServerWriteReactor<v1::GenerateEvent>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override {
    auto call = std::make_shared<GenerateCall>(frontend_);
    call->KeepAlive();
    call->Begin(*context, *request);
    return call.get();
  }

  grpc::ServerUnaryReactor* Complete(grpc::CallbackServerContext* context,
                                     const v1::GenerateRequest* request,
                                     v1::CompleteResponse* response) override {
    return StartCompleteCall(frontend_, *context, *request, response);
  }

  grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionEvent>* Session(
      grpc::CallbackServerContext* context) override {
    return StartSessionCall(frontend_, *context);
  }

  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context,
                                   const v1::CancelRequest* request, v1::CancelResponse*) override {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    frontend_->CancelById(request->request_id(), [reactor](const absl::Status& status) {
      reactor->Finish(rpc::ToGrpc(status));
    });
    return reactor;
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return Answer(context, "tokenize", TokenizeInto(*request, response));
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    return Answer(context, "tokenize", DetokenizeInto(*request, response));
  }

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override {
    v1::ListModelsResponse::Model* const model = response->add_models();
    model->set_name(frontend_->model().name());
    if (const std::optional<EngineIdentity> identity = frontend_->identity()) {
      model->set_fingerprint(identity->system_fingerprint);
      model->set_max_context(identity->context_tokens);
    }
    model->set_num_engines(frontend_->num_engines());
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const char* api,
                                   const absl::Status& status) {
    frontend_->RecordRequest(api, status);
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(rpc::ToGrpc(status));
    return reactor;
  }

  absl::Status TokenizeInto(const v1::TokenizeRequest& request, v1::TokenizeResponse* response) {
    RETURN_IF_ERROR(CheckModelName(request.model(), frontend_->model()));
    PromptInput prompt;
    if (request.has_chat()) {
      ASSIGN_OR_RETURN(prompt, FromProto(request.chat()));
    } else if (request.prompt_case() == v1::TokenizeRequest::kText) {
      prompt = TextPromptInput{.text = request.text(),
                               .add_special_tokens = !request.without_special_tokens(),
                               .parse_special_tokens = !request.without_special_tokens()};
    } else {
      return rpc::InvalidField("prompt", "is missing: set one of text, chat");
    }
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, frontend_->model().Encode(prompt));
    response->mutable_ids()->Assign(ids.begin(), ids.end());
    if (const std::optional<EngineIdentity> identity = frontend_->identity()) {
      response->set_max_context(identity->context_tokens);
    }
    return absl::OkStatus();
  }

  absl::Status DetokenizeInto(const v1::DetokenizeRequest& request,
                              v1::DetokenizeResponse* response) {
    RETURN_IF_ERROR(CheckModelName(request.model(), frontend_->model()));
    absl::StatusOr<std::string> text = frontend_->model().tokenizer()->Decode(
        {request.ids().data(), static_cast<size_t>(request.ids_size())},
        {.skip_special_tokens = request.skip_special_tokens(), .allow_unknown_ids = false});
    if (!text.ok()) return rpc::InvalidField("ids", std::string(text.status().message()));
    response->set_text(*std::move(text));
    return absl::OkStatus();
  }

  Frontend* const frontend_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeInferenceService(Frontend* frontend) {
  return std::make_unique<InferenceServiceImpl>(frontend);
}

}  // namespace conclave::gateway
