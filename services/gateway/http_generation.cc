#include "services/gateway/http_generation.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/gateway/http_request.h"
#include "services/gateway/openai_answer.h"
#include "services/gateway/openai_json.h"
#include "services/gateway/openai_request.h"
#include "shared/base/log.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

using http::Exchange;
using nlohmann::json;

constexpr int64_t kCompletionsDefaultMaxTokens = 16;  // OpenAI's
constexpr size_t kMaxUnknownNames = 1000;             // remembered as logged

// What may be done on the I/O thread: of a request, and in all of its kept answers. Writing so much
// takes about 100 us.
constexpr size_t kMostQuickPrompts = 4;
constexpr size_t kMostQuickBytes = 32 << 10;
static_assert(http::kQuickBodyBytes <= kShortPromptBytes, "a worker encodes it: no long prompt");

// The client's id, or a drawn one. A malformed id is refused later, by Check.
std::string RequestId(const http::Request& request) {
  const std::string given(request.Header("x-request-id"));
  return given.empty() ? DrawRequestId() : given;
}

// OpenAI's x-ratelimit headers, for a key that has limits.
http::Headers RateHeaders(const Principal* principal, TimePoint now) {
  http::Headers headers;
  if (!principal || !principal->limit) return headers;
  const auto add = [&headers](const char* what, const RateLimit::State& state) {
    if (state.limit == 0) return;
    headers.emplace_back(absl::StrCat("x-ratelimit-limit-", what), absl::StrCat(state.limit));
    headers.emplace_back(absl::StrCat("x-ratelimit-remaining-", what),
                         absl::StrCat(state.remaining));
    headers.emplace_back(
        absl::StrCat("x-ratelimit-reset-", what),
        absl::StrCat(
            std::chrono::duration_cast<std::chrono::milliseconds>(state.until_full).count(), "ms"));
  };
  add("requests", principal->limit->requests(now));
  add("tokens", principal->limit->tokens(now));
  return headers;
}

// Whether an answer is written so fast that nobody notices the wait. Log-probabilities are not.
bool IsQuick(const std::vector<Frontend::Checked>& prompts) {
  size_t bytes = 0;
  for (const Frontend::Checked& prompt : prompts) {
    const RecordedGeneration* const answer = prompt.kept_answer();
    if (!answer) return false;
    for (const RecordedChoice& choice : answer->choices) {
      if (!choice.logprobs.empty()) return false;
    }
    bytes += answer->bytes();
  }
  return bytes <= kMostQuickBytes;
}

}  // namespace

struct HttpGenerations::Job {
  std::shared_ptr<Exchange> exchange;
  Endpoint endpoint = Endpoint::kChat;
  const char* api = "";
  std::string id;
  std::shared_ptr<const Principal> principal;
  TimePoint arrival;
  std::optional<TimePoint> deadline;
  std::vector<Admission> admissions;  // one a prompt
  std::shared_ptr<text::Interrupt> interrupt;
  OpenAiRequest request;
  std::vector<Frontend::Checked> prompts;  // empty: not checked yet
};

HttpGenerations::HttpGenerations(Frontend* frontend, Duration heartbeat_period)
    : frontend_(frontend), heartbeat_period_(heartbeat_period) {}

http::Server::Rest HttpGenerations::Begin(const std::shared_ptr<Exchange>& exchange,
                                          Endpoint endpoint) {
  const std::shared_ptr<Job> job = Admit(exchange, endpoint);
  if (!job) return nullptr;
  absl::Status done = Parse(*job);
  if (done.ok() && job->request.prompts.size() <= kMostQuickPrompts) {
    done = Check(*job);
    if (done.ok() && IsQuick(job->prompts)) {
      done = Submit(*job);
      if (done.ok()) return nullptr;
    }
  }
  if (!done.ok()) {
    Refuse(*job, done);
    return nullptr;
  }
  return [self = shared_from_this(), job] {
    absl::Status submitted = job->prompts.empty() ? self->Check(*job) : absl::OkStatus();
    submitted.Update(submitted.ok() ? self->Submit(*job) : absl::OkStatus());
    if (!submitted.ok()) self->Refuse(*job, submitted);
  };
}

void HttpGenerations::Run(const std::shared_ptr<Exchange>& exchange, Endpoint endpoint) {
  const std::shared_ptr<Job> job = Admit(exchange, endpoint);
  if (!job) return;
  RunInLane(frontend_, exchange, job->principal->tenant.name, job->interrupt,
            [self = shared_from_this(), job](const absl::Status& turn) {
              const absl::Status submitted = [&]() -> absl::Status {
                RETURN_IF_ERROR(turn);
                RETURN_IF_ERROR(self->Parse(*job));
                RETURN_IF_ERROR(self->Check(*job));
                return self->Submit(*job);
              }();
              if (!submitted.ok()) self->Refuse(*job, submitted);
            });
}

std::shared_ptr<HttpGenerations::Job> HttpGenerations::Admit(
    const std::shared_ptr<Exchange>& exchange, Endpoint endpoint) {
  auto job = std::make_shared<Job>();
  job->exchange = exchange;
  job->endpoint = endpoint;
  job->api = endpoint == Endpoint::kChat ? "chat" : "completions";
  job->id = RequestId(exchange->request());
  job->arrival = frontend_->clock().Now();
  const absl::Status admitted = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(job->principal,
                     frontend_->Authenticate(exchange->request().Header("authorization")));
    job->admissions.resize(1);
    ASSIGN_OR_RETURN(job->admissions[0], frontend_->Admit(*job->principal));
    ASSIGN_OR_RETURN(job->deadline, RequestDeadline(exchange->request(), job->arrival));
    job->interrupt = std::make_shared<text::Interrupt>(job->deadline);
    return absl::OkStatus();
  }();
  if (admitted.ok()) return job;
  Refuse(*job, admitted);
  return nullptr;
}

void HttpGenerations::Refuse(Job& job, const absl::Status& status) const {
  frontend_->RecordRequest(job.api, job.principal ? job.principal->tenant.name : "", status);
  http::Response response = FailureResponse(status);
  response.headers.emplace_back("x-request-id", job.id);
  for (auto& header : RateHeaders(job.principal.get(), frontend_->clock().Now())) {
    response.headers.push_back(std::move(header));
  }
  job.admissions.clear();  // first: who is refused may come again at once
  job.exchange->Respond(std::move(response));
}

absl::Status HttpGenerations::Parse(Job& job) {
  ASSIGN_OR_RETURN(const json body, ParseJsonBody(job.exchange->request()));
  ASSIGN_OR_RETURN(job.request, ParseOpenAiRequest(body, job.endpoint));
  LogUnknown(job.request.unknown_fields, job.api);
  return absl::OkStatus();
}

absl::Status HttpGenerations::Check(Job& job) const {
  OpenAiRequest& request = job.request;
  // Before anything is spent on its prompts. A number that is out of range by itself is refused
  // with the first of them.
  const int64_t n = request.sampling.num_choices.value_or(1);
  const auto num_prompts = static_cast<int64_t>(request.prompts.size());
  if (n <= kMaxChoices && num_prompts * n > kMaxChoices) {
    return rpc::InvalidField("n", absl::StrCat("prompts times n must be at most ", kMaxChoices,
                                               ", found ", num_prompts * n));
  }
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    if (i > 0) {
      ASSIGN_OR_RETURN(Admission admission, frontend_->Admit(*job.principal));
      job.admissions.push_back(std::move(admission));
    }
    GenerationInput input;
    // One seed for the whole answer.
    if (i > 0) input.drawn_seed = job.prompts[0].request.generation.seed;
    input.api = job.api;
    input.request_id =
        i == 0 ? job.id : absl::StrCat(job.id.substr(0, kMaxRequestIdBytes - 5), "-", i);
    input.model = request.model;
    input.prompt = std::move(request.prompts[i]);
    input.sampling = request.sampling;
    input.qos = request.qos;
    input.cache = request.cache;
    input.traceparent = std::string(job.exchange->request().Header("traceparent"));
    input.deadline = job.deadline;
    input.arrival = job.arrival;
    input.largest_drawn_seed = kLargestJsonSeed;
    if (job.endpoint == Endpoint::kCompletions) input.api_max_tokens = kCompletionsDefaultMaxTokens;
    ASSIGN_OR_RETURN(Frontend::Checked checked,
                     frontend_->Check(*job.principal, std::move(input), request.field_names));
    job.prompts.push_back(std::move(checked));
  }
  return absl::OkStatus();
}

absl::Status HttpGenerations::Submit(Job& job) const {
  std::vector<Generation> generations;
  for (Frontend::Checked& prompt : job.prompts) {
    ASSIGN_OR_RETURN(
        Generation generation,
        frontend_->Encode(std::move(prompt), job.request.field_names, job.interrupt.get()));
    generations.push_back(std::move(generation));
  }
  const auto num_prompts = static_cast<int32_t>(generations.size());
  auto answer = std::make_shared<OpenAiAnswer>(
      OpenAiAnswer::Options{
          .endpoint = job.endpoint,
          .stream = job.request.stream,
          .include_usage = job.request.include_usage,
          .return_token_ids = job.request.return_token_ids,
          .logprobs = job.request.logprobs,
          .num_prompts = num_prompts,
          .num_choices = generations[0].num_choices,
          .request_id = job.id,
          .headers = RateHeaders(job.principal.get(), frontend_->clock().Now()),
          .heartbeat_period = heartbeat_period_,
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

void HttpGenerations::LogUnknown(const std::vector<std::string>& names, const char* api) {
  if (names.empty()) return;
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

void RunInLane(Frontend* frontend, const std::shared_ptr<Exchange>& exchange, std::string tenant,
               std::shared_ptr<text::Interrupt> interrupt,
               std::function<void(const absl::Status&)> work) {
  const size_t bytes = exchange->request().body.size();
  if (!PromptLanes::IsQuick(bytes)) {
    exchange->OnClientGone([interrupt] { interrupt->Cancel(); });
  }
  frontend->prompts().Run({.bytes = bytes,
                           .tenant = std::move(tenant),
                           .interrupt = std::move(interrupt),
                           .run = std::move(work)});
}

}  // namespace conclave::gateway
