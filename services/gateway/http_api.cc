#include "services/gateway/http_api.h"

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/gateway/http_generation.h"
#include "services/gateway/http_request.h"
#include "services/gateway/json_fields.h"
#include "services/gateway/openai_json.h"
#include "services/gateway/openai_request.h"
#include "shared/base/status_macros.h"
#include "shared/http/ops_routes.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

using http::Exchange;
using nlohmann::json;

// State and code shared by all handlers.
class HttpApi : public std::enable_shared_from_this<HttpApi> {
 public:
  explicit HttpApi(Frontend* frontend) : frontend_(frontend) {}

  void ListModels(const std::shared_ptr<Exchange>& exchange) const {
    if (const absl::Status known = Authenticate(exchange).status(); !known.ok()) {
      exchange->Respond(FailureResponse(known));
      return;
    }
    OrderedJson body = {{"object", "list"}, {"data", {ModelJson()}}};
    RespondJson(exchange, body);
  }

  void GetModel(const std::shared_ptr<Exchange>& exchange) const {
    const std::string name = exchange->request().path.substr(std::string("/v1/models/").size());
    absl::Status known = Authenticate(exchange).status();
    if (known.ok()) known = CheckModelName(name, frontend_->model());
    known.ok() ? RespondJson(exchange, ModelJson()) : exchange->Respond(FailureResponse(known));
  }

  void Tokenize(const std::shared_ptr<Exchange>& exchange) {
    Answer(exchange, [this](const json& body, const text::Interrupt& interrupt) {
      return TokenizeBody(body, interrupt);
    });
  }
  void Detokenize(const std::shared_ptr<Exchange>& exchange) {
    Answer(exchange,
           [this](const json& body, const text::Interrupt&) { return DetokenizeBody(body); });
  }

 private:
  absl::StatusOr<std::shared_ptr<const Principal>> Authenticate(
      const std::shared_ptr<Exchange>& exchange) const {
    return frontend_->Authenticate(exchange->request().Header("authorization"));
  }

  static void RespondJson(const std::shared_ptr<Exchange>& exchange, const OrderedJson& body) {
    exchange->Respond(
        {.status = 200, .content_type = "application/json", .body = Dump(body), .headers = {}});
  }

  OrderedJson ModelJson() const {
    OrderedJson model = {{"id", frontend_->model().name()},
                         {"object", "model"},
                         {"created", created_},
                         {"owned_by", "conclave"}};
    if (const std::shared_ptr<const EngineIdentity> identity = frontend_->identity()) {
      model["max_model_len"] = identity->context_tokens;
    }
    return model;
  }

  // `function`: of the body and of what ends the patience with it.
  template <typename Function>
  void Answer(const std::shared_ptr<Exchange>& exchange, Function function) {
    const auto principal = Authenticate(exchange);
    const std::string tenant = principal.ok() ? (*principal)->tenant.name : "";
    const absl::Status may =
        principal.ok() ? frontend_->TakeRequest(**principal) : principal.status();
    const absl::StatusOr<std::optional<TimePoint>> deadline =
        may.ok() ? RequestDeadline(exchange->request(), frontend_->clock().Now())
                 : absl::StatusOr<std::optional<TimePoint>>(may);
    if (!deadline.ok()) {
      RespondTokenize(exchange, tenant, deadline.status());
      return;
    }
    const auto interrupt = std::make_shared<text::Interrupt>(*deadline);
    RunInLane(frontend_, exchange, tenant, interrupt,
              [self = shared_from_this(), exchange, interrupt, function,
               tenant](const absl::Status& turn) {
                self->RespondTokenize(exchange, tenant, [&]() -> absl::StatusOr<OrderedJson> {
                  RETURN_IF_ERROR(turn);
                  ASSIGN_OR_RETURN(const json body, ParseJsonBody(exchange->request()));
                  return function(body, *interrupt);
                }());
              });
  }
  void RespondTokenize(const std::shared_ptr<Exchange>& exchange, const std::string& tenant,
                       const absl::StatusOr<OrderedJson>& answer) const {
    frontend_->RecordRequest("tokenize", tenant, answer.status());
    answer.ok() ? RespondJson(exchange, *answer)
                : exchange->Respond(FailureResponse(answer.status()));
  }

  absl::StatusOr<OrderedJson> TokenizeBody(const json& body,
                                           const text::Interrupt& interrupt) const {
    std::string model;
    RETURN_IF_ERROR(ReadField(body, "model", &model));
    RETURN_IF_ERROR(CheckModelName(model, frontend_->model()));
    bool with_strings = false;
    RETURN_IF_ERROR(ReadField(body, "return_token_strs", &with_strings));
    PromptInput prompt;
    if (FindField(body, "messages")) {
      ASSIGN_OR_RETURN(prompt, ParseChatPrompt(body));
    } else {
      TextPromptInput text;
      if (!FindField(body, "prompt"))
        return rpc::InvalidField("prompt", "is missing: a string, or messages");
      RETURN_IF_ERROR(ReadField(body, "prompt", &text.text));
      RETURN_IF_ERROR(ReadField(body, "add_special_tokens", &text.add_special_tokens));
      prompt = std::move(text);
    }
    absl::StatusOr<std::vector<int32_t>> ids =
        frontend_->model().Encode(prompt, {.interrupt = &interrupt});
    if (absl::IsCancelled(ids.status()) || absl::IsDeadlineExceeded(ids.status())) {
      return ids.status();
    }
    if (!ids.ok()) return rpc::InvalidField("prompt", std::string(ids.status().message()));
    const std::shared_ptr<const EngineIdentity> identity = frontend_->identity();
    OrderedJson answer = {
        {"count", ids->size()},
        {"max_model_len", identity ? OrderedJson(identity->context_tokens) : OrderedJson(nullptr)},
        {"tokens", *ids},
        {"token_strs", nullptr}};
    if (with_strings) {
      OrderedJson strings = OrderedJson::array();
      for (const int32_t id : *ids) {
        ASSIGN_OR_RETURN(std::string name, frontend_->model().tokenizer()->TokenName(id));
        strings.push_back(std::move(name));
      }
      answer["token_strs"] = std::move(strings);
    }
    return answer;
  }

  absl::StatusOr<OrderedJson> DetokenizeBody(const json& body) const {
    std::string model;
    RETURN_IF_ERROR(ReadField(body, "model", &model));
    RETURN_IF_ERROR(CheckModelName(model, frontend_->model()));
    const json* const tokens = FindField(body, "tokens");
    if (!tokens) return rpc::InvalidField("tokens", "is missing: an array of ids");
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseIds(*tokens, "tokens"));
    absl::StatusOr<std::string> text = frontend_->model().tokenizer()->Decode(ids);
    if (!text.ok()) return rpc::InvalidField("tokens", std::string(text.status().message()));
    return OrderedJson{{"prompt", *text}};
  }

  Frontend* const frontend_;
  const int64_t created_ = std::chrono::duration_cast<std::chrono::seconds>(
                               std::chrono::system_clock::now().time_since_epoch())
                               .count();
};

}  // namespace

std::optional<http::Response> CheckSender(const Frontend& frontend,
                                          std::string_view authorization) {
  const auto principal = frontend.Authenticate(authorization);
  if (principal.ok()) return std::nullopt;
  return FailureResponse(principal.status());
}

std::vector<http::Server::Route> HttpRoutes(Frontend* frontend, const HttpApiOptions& options) {
  const auto api = std::make_shared<HttpApi>(frontend);
  const auto generations = std::make_shared<HttpGenerations>(frontend, options.heartbeat_period);
  std::vector<http::Server::Route> routes =
      http::HealthRoutes([frontend] { return frontend->readiness(); });
  using Shared = std::shared_ptr<Exchange>;
  const auto generate = [&](const char* path, Endpoint endpoint) {
    routes.push_back({"POST", path, [=](const Shared& e) { generations->Run(e, endpoint); },
                      [=](const Shared& e) { return generations->Begin(e, endpoint); }});
  };
  generate("/v1/chat/completions", Endpoint::kChat);
  generate("/v1/completions", Endpoint::kCompletions);
  routes.push_back({"GET", "/v1/models", [api](const Shared& e) { api->ListModels(e); }});
  routes.push_back({"GET", "/v1/models/*", [api](const Shared& e) { api->GetModel(e); }});
  routes.push_back({"POST", "/tokenize", [api](const Shared& e) { api->Tokenize(e); }});
  routes.push_back({"POST", "/detokenize", [api](const Shared& e) { api->Detokenize(e); }});
  return routes;
}

}  // namespace conclave::gateway
