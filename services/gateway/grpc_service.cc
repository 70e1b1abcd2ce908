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
#include "services/gateway/session_call.h"
#include "services/gateway/unary_call.h"
#include "services/gateway/wire_message.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/queued_writer.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

// One streamed request.
class GenerateCall final : public rpc::QueuedWriter<grpc::ServerWriteReactor<grpc::ByteBuffer>> {
 public:
  GenerateCall(Frontend* frontend, CallOrigin origin)
      : frontend_(frontend),
        origin_(std::make_shared<const CallOrigin>(std::move(origin))),
        interrupt_(std::make_shared<text::Interrupt>(origin_->deadline)) {}

  void Begin(const grpc::ByteBuffer& request);

  void OnCancel() override {
    interrupt_->Cancel();
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
  void Submit(PreparedRequest prepared);

  Frontend* const frontend_;
  const std::shared_ptr<const CallOrigin> origin_;
  const std::shared_ptr<text::Interrupt> interrupt_;
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
    if (!call_->Push(ToWire(event))) call_->OnCancel();
  }

  const std::shared_ptr<GenerateCall> call_;
  const TextModel& model_;
  const std::string request_id_;
};

void GenerateCall::Begin(const grpc::ByteBuffer& request) {
  const auto self = std::static_pointer_cast<GenerateCall>(shared_from_this());
  PrepareGrpc(
      frontend_,
      {.bytes = request.Length(),
       .parse = [request](v1::GenerateRequest* message) { return ParseWire(request, message); },
       .origin = origin_,
       .interrupt = interrupt_,
       .done =
           [self](absl::StatusOr<PreparedRequest> prepared) {
             prepared.ok() ? self->Submit(*std::move(prepared))
                           : self->End(rpc::ToGrpc(prepared.status()));
           }});
}

void GenerateCall::Submit(PreparedRequest prepared) {
  auto sink =
      std::make_shared<GenerateSink>(std::static_pointer_cast<GenerateCall>(shared_from_this()),
                                     frontend_->model(), prepared.generation.request_id);
  const uint64_t key = frontend_->Submit(std::move(prepared.admission),
                                         std::move(prepared.generation), std::move(sink));
  bool cancelled = false;
  {
    MutexLock lock(key_mutex_);
    key_ = key;
    cancelled = cancelled_;
  }
  if (cancelled) frontend_->Abandon(key);
}

// Every method takes and gives raw bytes (wire_message.h).
template <typename Base>
using RawGenerate = v1::InferenceService::WithRawCallbackMethod_Generate<Base>;
template <typename Base>
using RawComplete = v1::InferenceService::WithRawCallbackMethod_Complete<Base>;
template <typename Base>
using RawSession = v1::InferenceService::WithRawCallbackMethod_Session<Base>;
template <typename Base>
using RawCancel = v1::InferenceService::WithRawCallbackMethod_Cancel<Base>;
template <typename Base>
using RawTokenize = v1::InferenceService::WithRawCallbackMethod_Tokenize<Base>;
template <typename Base>
using RawDetokenize = v1::InferenceService::WithRawCallbackMethod_Detokenize<Base>;
template <typename Base>
using RawListModels = v1::InferenceService::WithRawCallbackMethod_ListModels<Base>;
using RawService = RawGenerate<RawComplete<RawSession<
    RawCancel<RawTokenize<RawDetokenize<RawListModels<v1::InferenceService::Service>>>>>>>;

class InferenceServiceImpl final : public RawService {
 public:
  explicit InferenceServiceImpl(Frontend* frontend) : frontend_(frontend) {}

  using RawService::Cancel;
  using RawService::Complete;
  using RawService::Detokenize;
  using RawService::Generate;
  using RawService::ListModels;
  using RawService::Session;
  using RawService::Tokenize;

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override {
    auto call = std::make_shared<GenerateCall>(frontend_, Origin(*context));
    call->KeepAlive();
    call->Begin(*request);
    return call.get();
  }

  grpc::ServerUnaryReactor* Complete(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    return StartCompleteCall(frontend_, *context, *request, response);
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Session(
      grpc::CallbackServerContext* context) override {
    return StartSessionCall(frontend_, *context);
  }

  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override {
    const auto call = NewCall(*context, response);
    v1::CancelRequest message;
    const auto principal = frontend_->Authenticate(Origin(*context).authorization);
    const absl::Status parsed = principal.ok() ? ParseWire(*request, &message) : principal.status();
    if (!parsed.ok()) {
      call->End(rpc::ToGrpc(parsed));
      return call.get();
    }
    frontend_->CancelById(**principal, message.request_id(), [call](const absl::Status& status) {
      status.ok() ? call->Succeed(v1::CancelResponse()) : call->End(rpc::ToGrpc(status));
    });
    return call.get();
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    return AnswerInLane<v1::TokenizeRequest, v1::TokenizeResponse>(*context, *request, response,
                                                                   TokenizeInto);
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override {
    return AnswerInLane<v1::DetokenizeRequest, v1::DetokenizeResponse>(*context, *request, response,
                                                                       DetokenizeInto);
  }

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer*,
                                       grpc::ByteBuffer* response) override {
    v1::ListModelsResponse answer;
    v1::ListModelsResponse::Model* const model = answer.add_models();
    model->set_name(frontend_->model().name());
    if (const std::optional<EngineIdentity> identity = frontend_->identity()) {
      model->set_fingerprint(identity->system_fingerprint);
      model->set_max_context(identity->context_tokens);
    }
    model->set_num_engines(frontend_->num_engines());
    const auto call = NewCall(*context, response);
    const auto principal = frontend_->Authenticate(Origin(*context).authorization);
    principal.ok() ? call->Succeed(answer) : call->End(rpc::ToGrpc(principal.status()));
    return call.get();
  }

 private:
  CallOrigin Origin(const grpc::CallbackServerContext& context) const {
    return CallOrigin::Of(context, frontend_->clock());
  }
  std::shared_ptr<UnaryCall> NewCall(const grpc::CallbackServerContext& context,
                                     grpc::ByteBuffer* response) const {
    auto call = std::make_shared<UnaryCall>(response, Origin(context).deadline);
    call->KeepAlive();
    return call;
  }

  // Parses the request, fills the answer by `fill` and counts the outcome: here, or on the prompt
  // lane for a long request. The service may be gone by then, but not the frontend.
  template <typename Request, typename Response, typename Fill>
  grpc::ServerUnaryReactor* AnswerInLane(const grpc::CallbackServerContext& context,
                                         const grpc::ByteBuffer& request,
                                         grpc::ByteBuffer* response, Fill* fill) {
    const auto call = NewCall(context, response);
    const auto principal = frontend_->Authenticate(Origin(context).authorization);
    const absl::Status may =
        principal.ok() ? frontend_->TakeRequest(**principal) : principal.status();
    if (!may.ok()) {
      frontend_->RecordRequest("tokenize", principal.ok() ? (*principal)->tenant.name : "", may);
      call->End(rpc::ToGrpc(may));
      return call.get();
    }
    frontend_->prompts().Run(
        {.bytes = request.Length(),
         .interrupt = call->interrupt(),
         .run = [frontend = frontend_, call, request, fill,
                 tenant = (*principal)->tenant.name](const absl::Status& turn) {
           Request message;
           Response answer;
           absl::Status status = turn;
           if (status.ok()) status = ParseWire(request, &message);
           if (status.ok()) status = fill(*frontend, message, *call->interrupt(), &answer);
           frontend->RecordRequest("tokenize", tenant, status);
           status.ok() ? call->Succeed(answer) : call->End(rpc::ToGrpc(status));
         }});
    return call.get();
  }

  static absl::Status TokenizeInto(const Frontend& frontend, const v1::TokenizeRequest& request,
                                   const text::Interrupt& interrupt,
                                   v1::TokenizeResponse* response) {
    RETURN_IF_ERROR(CheckModelName(request.model(), frontend.model()));
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
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                     frontend.model().Encode(prompt, {.interrupt = &interrupt}));
    response->mutable_ids()->Assign(ids.begin(), ids.end());
    if (const std::optional<EngineIdentity> identity = frontend.identity()) {
      response->set_max_context(identity->context_tokens);
    }
    return absl::OkStatus();
  }

  static absl::Status DetokenizeInto(const Frontend& frontend, const v1::DetokenizeRequest& request,
                                     const text::Interrupt&, v1::DetokenizeResponse* response) {
    RETURN_IF_ERROR(CheckModelName(request.model(), frontend.model()));
    absl::StatusOr<std::string> text = frontend.model().tokenizer()->Decode(
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
