#include "services/gateway/http_api.h"

#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/gateway/excerpt.h"
#include "services/gateway/json_fields.h"
#include "services/gateway/openai_answer.h"
#include "services/gateway/openai_json.h"
#include "services/gateway/openai_request.h"
#include "services/gateway/strict_json.h"
#include "shared/base/log.h"
#include "shared/base/status_macros.h"
#include "shared/http/ops_routes.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

using http::Exchange;
using nlohmann::json;

constexpr int64_t kCompletionsDefaultMaxTokens = 16;  // OpenAI's
constexpr size_t kMaxUnknownNames = 1000;             // remembered as logged
constexpr int64_t kMaxTimeoutMs = 24 * 3600 * 1000;

// State and code shared by all handlers.
class HttpApi : public std::enable_shared_from_this<HttpApi> {
 public:
  HttpApi(Frontend* frontend, const HttpApiOptions& options)
      : frontend_(frontend), options_(options) {}

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

  void Generate(const std::shared_ptr<Exchange>& exchange, Endpoint endpoint) {
    auto job = std::make_shared<GenerateJob>();
    job->exchange = exchange;
    job->endpoint = endpoint;
    job->api = endpoint == Endpoint::kChat ? "chat" : "completions";
    job->id = RequestId(exchange->request());
    job->arrival = frontend_->clock().Now();
    const absl::Status admitted = AdmitJob(*job);
    if (!admitted.ok()) {
      Refuse(*job, admitted);
      return;
    }
    InLane(exchange, job->interrupt, [self = shared_from_this(), job](const absl::Status& turn) {
      const absl::Status started = turn.ok() ? self->StartGenerating(*job) : turn;
      if (!started.ok()) self->Refuse(*job, started);
    });
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
  // A generation until it is submitted.
  struct GenerateJob {
    std::shared_ptr<Exchange> exchange;
    Endpoint endpoint = Endpoint::kChat;
    const char* api = "";
    std::string id;
    std::shared_ptr<const Principal> principal;
    TimePoint arrival;
    std::optional<TimePoint> deadline;
    std::vector<Admission> admissions;  // one a prompt
    std::shared_ptr<text::Interrupt> interrupt;
  };

  // Before the wait for the lane: who is one too many hears it at once.
  absl::Status AdmitJob(GenerateJob& job) const {
    ASSIGN_OR_RETURN(job.principal, Authenticate(job.exchange));
    job.admissions.resize(1);
    ASSIGN_OR_RETURN(job.admissions[0], frontend_->Admit(*job.principal));
    ASSIGN_OR_RETURN(job.deadline, Deadline(job.exchange->request(), job.arrival));
    job.interrupt = std::make_shared<text::Interrupt>(job.deadline);
    return absl::OkStatus();
  }

  void Refuse(const GenerateJob& job, const absl::Status& status) const {
    frontend_->RecordRequest(job.api, job.principal ? job.principal->tenant.name : "", status);
    http::Response response = FailureResponse(status);
    response.headers.emplace_back("x-request-id", job.id);
    for (auto& header : RateHeaders(job.principal.get())) {
      response.headers.push_back(std::move(header));
    }
    job.exchange->Respond(std::move(response));
  }

  absl::StatusOr<std::shared_ptr<const Principal>> Authenticate(
      const std::shared_ptr<Exchange>& exchange) const {
    return frontend_->Authenticate(exchange->request().Header("authorization"));
  }

  // OpenAI's x-ratelimit headers, for a key that has limits.
  http::Headers RateHeaders(const Principal* principal) const {
    http::Headers headers;
    if (!principal || !principal->limit) return headers;
    const TimePoint now = frontend_->clock().Now();
    const auto add = [&headers](const char* what, const RateLimit::State& state) {
      if (state.limit == 0) return;
      headers.emplace_back(absl::StrCat("x-ratelimit-limit-", what), absl::StrCat(state.limit));
      headers.emplace_back(absl::StrCat("x-ratelimit-remaining-", what),
                           absl::StrCat(state.remaining));
      headers.emplace_back(
          absl::StrCat("x-ratelimit-reset-", what),
          absl::StrCat(
              std::chrono::duration_cast<std::chrono::milliseconds>(state.until_full).count(),
              "ms"));
    };
    add("requests", principal->limit->requests(now));
    add("tokens", principal->limit->tokens(now));
    return headers;
  }

  // Runs `work` when it is the request's turn, unless its client goes away first.
  void InLane(const std::shared_ptr<Exchange>& exchange, std::shared_ptr<text::Interrupt> interrupt,
              std::function<void(const absl::Status&)> work) {
    const size_t bytes = exchange->request().body.size();
    if (bytes > kShortPromptBytes) {
      exchange->OnClientGone([interrupt] { interrupt->Cancel(); });
    }
    frontend_->prompts().Run(
        {.bytes = bytes, .interrupt = std::move(interrupt), .run = std::move(work)});
  }

  static void RespondJson(const std::shared_ptr<Exchange>& exchange, const OrderedJson& body) {
    exchange->Respond(
        {.status = 200, .content_type = "application/json", .body = Dump(body), .headers = {}});
  }

  // The client's id, or a drawn one. A malformed id is refused later, by Canonicalize.
  static std::string RequestId(const http::Request& request) {
    const std::string given(request.Header("x-request-id"));
    return given.empty() ? DrawRequestId() : given;
  }

  static absl::StatusOr<json> ParseBody(const http::Request& request) {
    const std::string_view type = request.Header("content-type");
    const absl::string_view media(type.data(), std::min(type.size(), type.find(';')));
    if (!absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(media), "application/json")) {
      return rpc::WithDetails(
          absl::InvalidArgumentError(absl::StrCat(
              "Content-Type is \"", Excerpt(std::string_view(media.data(), media.size()), 100),
              "\"; send the body as application/json")),
          {.reason = "UNSUPPORTED_MEDIA_TYPE", .metadata = {}, .retry_after_ms = -1, .fields = {}});
    }
    absl::StatusOr<json> body = ParseStrictJson(request.body);
    if (!body.ok())
      return absl::InvalidArgumentError(absl::StrCat("the body ", body.status().message()));
    if (!body->is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the body must be a JSON object, found ", JsonTypeName(*body)));
    }
    return body;
  }

  absl::StatusOr<std::optional<TimePoint>> Deadline(const http::Request& request,
                                                    TimePoint arrival) const {
    const std::string_view text = request.Header("x-request-timeout-ms");
    if (text.empty()) return std::nullopt;
    int64_t timeout_ms = 0;
    if (!absl::SimpleAtoi(absl::string_view(text.data(), text.size()), &timeout_ms) ||
        timeout_ms < 1 || timeout_ms > kMaxTimeoutMs) {
      return rpc::InvalidField("x-request-timeout-ms",
                               absl::StrCat("expected milliseconds from 1 to ", kMaxTimeoutMs));
    }
    return arrival + std::chrono::milliseconds(timeout_ms);
  }

  absl::Status StartGenerating(GenerateJob& job) {
    const http::Request& request = job.exchange->request();
    const Endpoint endpoint = job.endpoint;
    ASSIGN_OR_RETURN(const json body, ParseBody(request));
    ASSIGN_OR_RETURN(OpenAiRequest parsed, ParseOpenAiRequest(body, endpoint));
    LogUnknown(parsed.unknown_fields, job.api);

    std::vector<Generation> generations;
    const uint64_t seed_limit = kLargestJsonSeed;
    for (size_t i = 0; i < parsed.prompts.size(); ++i) {
      if (i > 0) {
        ASSIGN_OR_RETURN(Admission admission, frontend_->Admit(*job.principal));
        job.admissions.push_back(std::move(admission));
        parsed.sampling.seed = generations[0].seed;  // one seed for the whole answer
      }
      GenerationInput input;
      input.api = job.api;
      input.request_id =
          i == 0 ? job.id : absl::StrCat(job.id.substr(0, kMaxRequestIdBytes - 5), "-", i);
      input.model = parsed.model;
      input.prompt = std::move(parsed.prompts[i]);
      input.sampling = parsed.sampling;
      input.qos = parsed.qos;
      input.cache = parsed.cache;
      input.traceparent = std::string(request.Header("traceparent"));
      input.deadline = job.deadline;
      input.arrival = job.arrival;
      input.largest_drawn_seed = seed_limit;
      if (endpoint == Endpoint::kCompletions) input.api_max_tokens = kCompletionsDefaultMaxTokens;
      ASSIGN_OR_RETURN(Generation generation,
                       frontend_->Prepare(*job.principal, std::move(input), parsed.field_names,
                                          job.interrupt.get()));
      generations.push_back(std::move(generation));
    }
    const auto num_prompts = static_cast<int32_t>(generations.size());
    if (num_prompts * generations[0].num_choices > kMaxChoices) {
      return rpc::InvalidField(
          "n", absl::StrCat("prompts times n must be at most ", kMaxChoices, ", found ",
                            num_prompts * generations[0].num_choices));
    }
    auto answer = std::make_shared<OpenAiAnswer>(
        OpenAiAnswer::Options{
            .endpoint = endpoint,
            .stream = parsed.stream,
            .include_usage = parsed.include_usage,
            .return_token_ids = parsed.return_token_ids,
            .logprobs = parsed.logprobs,
            .num_prompts = num_prompts,
            .num_choices = generations[0].num_choices,
            .request_id = job.id,
            .headers = RateHeaders(job.principal.get()),
            .heartbeat_period = options_.heartbeat_period,
            .tokenizer = frontend_->model().tokenizer(),
            .abandon = [frontend = frontend_](uint64_t key) { frontend->Abandon(key); }},
        job.exchange);
    answer->Begin();
    for (int32_t i = 0; i < num_prompts; ++i) {
      const auto at = static_cast<size_t>(i);
      answer->AddKey(frontend_->Submit(std::move(job.admissions[at]), std::move(generations[at]),
                                       answer->SinkOf(i)));
    }
    return absl::OkStatus();
  }

  // Each name once, so that a client's typo shows and its traffic does not fill the log.
  void LogUnknown(const std::vector<std::string>& names, const char* api) EXCLUDES(mutex_) {
    std::vector<std::string> fresh;
    {
      MutexLock lock(mutex_);
      for (const std::string& name : names) {
        if (logged_names_.size() < kMaxUnknownNames && logged_names_.insert(name).second)
          fresh.push_back(name);
      }
    }
    for (const std::string& name : fresh) {
      LogWarning("unknown field ignored",
                 {{"field", absl::CHexEscape(name.substr(0, 100))}, {"api", api}});
    }
  }

  OrderedJson ModelJson() const {
    OrderedJson model = {{"id", frontend_->model().name()},
                         {"object", "model"},
                         {"created", created_},
                         {"owned_by", "conclave"}};
    if (const std::optional<EngineIdentity> identity = frontend_->identity()) {
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
        may.ok() ? Deadline(exchange->request(), frontend_->clock().Now())
                 : absl::StatusOr<std::optional<TimePoint>>(may);
    if (!deadline.ok()) {
      RespondTokenize(exchange, tenant, deadline.status());
      return;
    }
    const auto interrupt = std::make_shared<text::Interrupt>(*deadline);
    InLane(exchange, interrupt,
           [self = shared_from_this(), exchange, interrupt, function,
            tenant](const absl::Status& turn) {
             self->RespondTokenize(exchange, tenant, [&]() -> absl::StatusOr<OrderedJson> {
               RETURN_IF_ERROR(turn);
               ASSIGN_OR_RETURN(const json body, ParseBody(exchange->request()));
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
    const std::optional<EngineIdentity> identity = frontend_->identity();
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
  const HttpApiOptions options_;
  const int64_t created_ = std::chrono::duration_cast<std::chrono::seconds>(
                               std::chrono::system_clock::now().time_since_epoch())
                               .count();
  mutable Mutex mutex_;
  std::set<std::string> logged_names_ GUARDED_BY(mutex_);
};

}  // namespace

std::optional<http::Response> CheckSender(const Frontend& frontend,
                                          std::string_view authorization) {
  const auto principal = frontend.Authenticate(authorization);
  if (principal.ok()) return std::nullopt;
  return FailureResponse(principal.status());
}

std::vector<http::Server::Route> HttpRoutes(Frontend* frontend, const HttpApiOptions& options) {
  const auto api = std::make_shared<HttpApi>(frontend, options);
  std::vector<http::Server::Route> routes =
      http::HealthRoutes([frontend] { return frontend->readiness(); });
  using Shared = std::shared_ptr<Exchange>;
  routes.push_back({"GET", "/v1/models", [api](const Shared& e) { api->ListModels(e); }});
  routes.push_back({"GET", "/v1/models/*", [api](const Shared& e) { api->GetModel(e); }});
  routes.push_back({"POST", "/v1/chat/completions",
                    [api](const Shared& e) { api->Generate(e, Endpoint::kChat); }});
  routes.push_back({"POST", "/v1/completions",
                    [api](const Shared& e) { api->Generate(e, Endpoint::kCompletions); }});
  routes.push_back({"POST", "/tokenize", [api](const Shared& e) { api->Tokenize(e); }});
  routes.push_back({"POST", "/detokenize", [api](const Shared& e) { api->Detokenize(e); }});
  return routes;
}

}  // namespace conclave::gateway
