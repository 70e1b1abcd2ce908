#include "services/gateway/grpc_service.h"

#include <memory>
#include <string>
#include <utility>

#include "conclave/v1/inference.grpc.pb.h"
#include "services/gateway/complete_call.h"
#include "services/gateway/generate_call.h"
#include "services/gateway/grpc_messages.h"
#include "services/gateway/grpc_prepare.h"
#include "services/gateway/request_call.h"
#include "services/gateway/session_call.h"
#include "services/gateway/wire_message.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

absl::Status TokenizeInto(const Frontend& frontend, const v1::TokenizeRequest& request,
                          const text::Interrupt& interrupt, v1::TokenizeResponse* response) {
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
  if (const std::shared_ptr<const EngineIdentity> identity = frontend.identity()) {
    response->set_max_context(identity->context_tokens);
  }
  return absl::OkStatus();
}

absl::Status DetokenizeInto(const Frontend& frontend, const v1::DetokenizeRequest& request,
                            const text::Interrupt&, v1::DetokenizeResponse* response) {
  RETURN_IF_ERROR(CheckModelName(request.model(), frontend.model()));
  absl::StatusOr<std::string> text = frontend.model().tokenizer()->Decode(
      {request.ids().data(), static_cast<size_t>(request.ids_size())},
      {.skip_special_tokens = request.skip_special_tokens(), .allow_unknown_ids = false});
  if (!text.ok()) return rpc::InvalidField("ids", std::string(text.status().message()));
  response->set_text(*std::move(text));
  return absl::OkStatus();
}

// Of a principal: calls that are no generation.
class PrincipalCall : public RequestCall {
 public:
  PrincipalCall(Frontend* frontend, const h2::CallStart& start)
      : RequestCall(start.deadline),
        frontend_(frontend),
        authorization_(start.metadata.Find("authorization").value_or("")) {}

 protected:
  Frontend* const frontend_;
  const std::string authorization_;
};

class CancelCall final : public PrincipalCall {
 public:
  using PrincipalCall::PrincipalCall;
  void Begin(std::string_view request) override {
    v1::CancelRequest message;
    const auto principal = frontend_->Authenticate(authorization_);
    const absl::Status parsed = principal.ok() ? ParseWire(request, &message) : principal.status();
    if (!parsed.ok()) {
      Finish(parsed);
      return;
    }
    const auto self = std::static_pointer_cast<CancelCall>(shared_from_this());
    frontend_->CancelById(**principal, message.request_id(), [self](const absl::Status& status) {
      status.ok() ? self->Succeed(v1::CancelResponse()) : self->Finish(status);
    });
  }
};

class ListModelsCall final : public PrincipalCall {
 public:
  using PrincipalCall::PrincipalCall;
  void Begin(std::string_view) override {
    const auto principal = frontend_->Authenticate(authorization_);
    if (!principal.ok()) {
      Finish(principal.status());
      return;
    }
    v1::ListModelsResponse answer;
    v1::ListModelsResponse::Model* const model = answer.add_models();
    model->set_name(frontend_->model().name());
    if (const std::shared_ptr<const EngineIdentity> identity = frontend_->identity()) {
      model->set_fingerprint(identity->system_fingerprint);
      model->set_max_context(identity->context_tokens);
    }
    model->set_num_engines(frontend_->num_engines());
    Succeed(answer);
  }
};

// Parses the request, fills the answer by `fill` and counts the outcome: here for a small request,
// else in a prompt lane.
template <typename Request, typename Response, auto fill>
class LaneCall final : public PrincipalCall {
 public:
  using PrincipalCall::PrincipalCall;
  void Begin(std::string_view request) override {
    const auto principal = frontend_->Authenticate(authorization_);
    const absl::Status may =
        principal.ok() ? frontend_->TakeRequest(**principal) : principal.status();
    if (!may.ok()) {
      End(may, principal.ok() ? (*principal)->tenant.name : "");
      return;
    }
    const std::string& tenant = (*principal)->tenant.name;
    if (PromptLanes::IsQuick(request.size())) {
      Answer(request, tenant);
      return;
    }
    const auto self = std::static_pointer_cast<LaneCall>(shared_from_this());
    frontend_->prompts().Queue(
        {.bytes = request.size(),
         .tenant = tenant,
         .interrupt = interrupt(),
         .run = [self, kept = std::string(request), tenant](const absl::Status& turn) {
           turn.ok() ? self->Answer(kept, tenant) : self->End(turn, tenant);
         }});
  }

 private:
  void Answer(std::string_view request, const std::string& tenant) {
    Request message;
    Response answer;
    absl::Status status = ParseWire(request, &message);
    if (status.ok()) status = fill(*frontend_, message, *interrupt(), &answer);
    if (status.ok()) Write(answer);
    End(status, tenant);
  }
  void End(const absl::Status& status, const std::string& tenant) {
    frontend_->RecordRequest("tokenize", tenant, status);
    Finish(status);
  }
};

template <typename Call>
h2::Service::MakeCall Maker(Frontend* frontend) {
  return [frontend](const h2::CallStart& start) { return std::make_shared<Call>(frontend, start); };
}

}  // namespace

h2::Service InferenceService(Frontend* frontend) {
  using Make = std::shared_ptr<h2::ServerCall>(Frontend*, const h2::CallStart&);
  const auto by = [frontend](Make* make) {
    return [frontend, make](const h2::CallStart& start) { return make(frontend, start); };
  };
  return {.name = v1::InferenceService::service_full_name(),
          .methods = {
              {"Generate", by(MakeGenerateCall)},
              {"Complete", by(MakeCompleteCall)},
              {"Session", by(MakeSessionCall)},
              {"Cancel", Maker<CancelCall>(frontend)},
              {"Tokenize",
               Maker<LaneCall<v1::TokenizeRequest, v1::TokenizeResponse, TokenizeInto>>(frontend)},
              {"Detokenize",
               Maker<LaneCall<v1::DetokenizeRequest, v1::DetokenizeResponse, DetokenizeInto>>(
                   frontend)},
              {"ListModels", Maker<ListModelsCall>(frontend)},
          }};
}

}  // namespace conclave::gateway
