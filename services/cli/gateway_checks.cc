#include "services/cli/gateway_checks.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "services/cli/gateway_client.h"
#include "services/cli/generation.h"
#include "services/cli/table.h"
#include "shared/base/address.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"
#include "shared/http/http_call.h"

namespace conclave::cli {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds kReadyTimeout{5};
constexpr std::chrono::seconds kAnswerTimeout{30};
constexpr int32_t kAnswerTokens = 16;
constexpr int64_t kMostSkewS = 5;
constexpr char kPrompt[] = "Spell the word wolf.";

constexpr char kHttpRemedy[] =
    "--gateway-http is the port of the OpenAI API: see the gateway's log, and network policies in "
    "between";
constexpr char kTlsRemedy[] =
    "the gateway's certificate has to name this host and api_ca_file its authority; without "
    "gateway.server_cert_file the gateway speaks no TLS: leave api_ca_file away";
constexpr char kAnswerRemedy[] =
    "see the gateway's log; a key is named with --api-key-file, the certificate's authority with "
    "--api-ca-file";

struct Spoken {
  std::string text, fingerprint;
  double seconds = 0;
};

json ParseOrNull(const std::string& text) {
  if (IsNestedTooDeeply(text)) return nullptr;
  json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  return parsed.is_discarded() ? json() : parsed;
}

std::string StringAt(const json& object, const char* name) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && found != object.end() && found->is_string()
             ? found->get<std::string>()
             : "";
}

// The HTTP API of one gateway.
class HttpApi {
 public:
  static absl::StatusOr<HttpApi> Find(const CommonOptions& common, const std::string& address) {
    HttpApi api;
    ASSIGN_OR_RETURN(api.address_, ParseAddress(address));
    ASSIGN_OR_RETURN(api.key_, ReadApiKey(common.api_key_file));
    ASSIGN_OR_RETURN(api.authorities_, ReadApiAuthorities(common.api_ca_file));
    return api;
  }

  bool tls() const { return !authorities_.empty(); }
  std::string ToString() const {
    return absl::StrCat(tls() ? "https://" : "http://", address_.ToString());
  }

  absl::StatusOr<http::HttpCallAnswer> Get(const std::string& path) const {
    return http::CallHttp(Call("GET", path, "", kReadyTimeout));
  }
  absl::StatusOr<http::HttpCallAnswer> Post(const std::string& path, const json& body) const {
    return http::CallHttp(Call("POST", path, body.dump(), kAnswerTimeout));
  }

 private:
  http::HttpCall Call(const char* method, const std::string& path, std::string body,
                      std::chrono::milliseconds timeout) const {
    http::HttpCall call{.host = address_.host,
                        .port = std::to_string(address_.port),
                        .tls = tls(),
                        .authorities_pem = authorities_,
                        .method = method,
                        .path = path,
                        .body = std::move(body),
                        .timeout = timeout};
    if (!key_.empty()) call.headers.emplace_back("Authorization", "Bearer " + key_);
    if (!call.body.empty()) call.headers.emplace_back("Content-Type", "application/json");
    return call;
  }

  Address address_;
  std::string key_, authorities_;
};

Check CheckReady(const HttpApi& api, const http::HttpCallAnswer& answer) {
  if (answer.status == 200) return {.name = "gateway", .found = api.ToString() + " is ready"};
  std::vector<std::string> missing;
  const json said = ParseOrNull(answer.body);
  if (said.is_object() && said.contains("missing") && said["missing"].is_array()) {
    for (const json& line : said["missing"]) {
      if (line.is_string()) missing.push_back(line.get<std::string>());
    }
  }
  return {.name = "gateway",
          .verdict = Verdict::kFail,
          .found = absl::StrCat(api.ToString(), " answers ", answer.status, " to /readyz",
                                missing.empty() ? "" : ": ", absl::StrJoin(missing, "; ")),
          .remedy = missing.empty() ? kHttpRemedy : "wait, or see conclave events and the logs"};
}

absl::StatusOr<Spoken> AskGrpc(const Context& context, const std::string& address) {
  ASSIGN_OR_RETURN(const auto client, FindGateway(context, address));
  GenerationRequest request;
  request.chat.push_back({"user", kPrompt});
  request.parameters.temperature = 0;
  request.parameters.max_tokens = kAnswerTokens;
  request.timeout = kAnswerTimeout;
  const std::atomic<bool> cancelled{false};
  ASSIGN_OR_RETURN(const GenerationResult result,
                   client->Generate(
                       request, [](const std::string&) {}, cancelled));
  return Spoken{result.text, result.fingerprint,
                std::chrono::duration<double>(result.total).count()};
}

struct HttpSpoken {
  Spoken spoken;
  int64_t created_unix_s = 0;
};

absl::StatusOr<HttpSpoken> AskHttp(const HttpApi& api) {
  const auto start = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(const http::HttpCallAnswer answer,
                   api.Post("/v1/chat/completions",
                            {{"messages", json::array({{{"role", "user"}, {"content", kPrompt}}})},
                             {"temperature", 0},
                             {"max_tokens", kAnswerTokens},
                             {"cache", "off"}}));
  const json body = ParseOrNull(answer.body);
  if (answer.status != 200) {
    const std::string said =
        body.is_object() && body.contains("error") ? StringAt(body["error"], "message") : "";
    return absl::UnavailableError(
        absl::StrCat(api.ToString(), " answers ", answer.status, said.empty() ? "" : ": ", said));
  }
  HttpSpoken result;
  result.spoken.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.spoken.fingerprint = StringAt(body, "system_fingerprint");
  if (body.is_object() && body.contains("created") && body["created"].is_number_integer()) {
    result.created_unix_s = body["created"].get<int64_t>();
  }
  if (body.is_object() && body.contains("choices") && body["choices"].is_array() &&
      !body["choices"].empty() && body["choices"][0].is_object() &&
      body["choices"][0].contains("message")) {
    result.spoken.text = StringAt(body["choices"][0]["message"], "content");
  }
  return result;
}

Check CheckSame(const std::optional<Spoken>& grpc, const std::optional<Spoken>& http) {
  if (!grpc || !http) {
    return SkippedCheck("same answer", "it takes an answer over gRPC and one over HTTP");
  }
  if (grpc->text == http->text) {
    return {
        .name = "same answer",
        .found = absl::StrCat("the same ", Count(static_cast<int64_t>(grpc->text.size()), "byte"),
                              " over gRPC and HTTP, from ", grpc->fingerprint)};
  }
  return {.name = "same answer",
          .verdict = Verdict::kFail,
          .found = absl::StrCat("the same greedy request gave \"", grpc->text, "\" (",
                                grpc->fingerprint, ") over gRPC, and \"", http->text, "\" (",
                                http->fingerprint, ") over HTTP"),
          .remedy =
              "both ports have to be of one cluster; if they are, its members compute "
              "differently: compare their versions and fingerprints"};
}

Check Answered(const std::string& name, const Spoken& spoken) {
  return {.name = name,
          .found =
              absl::StrCat("answers in ", FormatSeconds(spoken.seconds), ", ", spoken.fingerprint)};
}

// What HTTP tells: readiness, certificate, an answer, clock.
std::vector<Check> CheckHttp(const Context& context, const std::string& address,
                             std::optional<Spoken>* spoken) {
  const absl::StatusOr<HttpApi> api = HttpApi::Find(context.options.common, address);
  if (!api.ok()) return {FailedCheck("gateway", api.status(), kHttpRemedy)};
  const auto ready = api->Get("/readyz");
  if (absl::IsFailedPrecondition(ready.status()))
    return {FailedCheck("gateway", ready.status(), kTlsRemedy)};
  if (!ready.ok()) {
    return {FailedCheck("gateway", ready.status(),
                        api->tls() ? kHttpRemedy
                                   : absl::StrCat(kHttpRemedy,
                                                  "; if it speaks TLS, name the authority of its "
                                                  "certificate with --api-ca-file"))};
  }
  std::vector<Check> checks = {CheckReady(*api, *ready)};
  if (api->tls()) {
    checks.push_back(CheckExpiry("gateway certificate", api->ToString(),
                                 ready->certificate_expires_unix_s, UnixMs() / 1000));
  }
  const auto answer = AskHttp(*api);
  if (!answer.ok()) {
    checks.push_back(FailedCheck("HTTP", answer.status(), kAnswerRemedy));
    return checks;
  }
  checks.push_back(Answered("HTTP", answer->spoken));
  *spoken = answer->spoken;
  if (answer->created_unix_s != 0) {
    // It was written when the request began.
    checks.push_back(CheckClock(answer->created_unix_s,
                                UnixMs() / 1000 - static_cast<int64_t>(answer->spoken.seconds)));
  }
  return checks;
}

}  // namespace

Check CheckClock(int64_t gateway_unix_s, int64_t here_unix_s) {
  const int64_t ahead = gateway_unix_s - here_unix_s;
  Check check{.name = "clock"};
  if (std::abs(ahead) <= kMostSkewS) {
    check.found = absl::StrCat("the gateway's is within ", kMostSkewS, " s of the one here");
    return check;
  }
  check.verdict = Verdict::kWarn;
  check.found = absl::StrCat("the gateway's is ", Count(std::abs(ahead), "second"),
                             ahead > 0 ? " ahead of" : " behind", " the one here");
  check.remedy = "keys and certificates expire by it: run a time service (NTP) on both hosts";
  return check;
}

std::vector<Check> CheckGateway(const Context& context, const ClusterTargets& targets) {
  std::vector<Check> checks;
  std::optional<Spoken> http, grpc;
  if (targets.gateway_http.empty()) {
    checks.push_back(SkippedCheck("gateway", "no HTTP port is named (--gateway-http)"));
  } else {
    checks = CheckHttp(context, targets.gateway_http, &http);
  }
  if (targets.gateway.empty() && !targets.gateway_http.empty()) {
    checks.push_back(SkippedCheck("gRPC", "no gRPC port is named (--gateway)"));
  } else if (const auto answer = AskGrpc(context, targets.gateway); answer.ok()) {
    grpc = *answer;
    checks.push_back(Answered("gRPC", *grpc));
  } else {
    checks.push_back(FailedCheck("gRPC", answer.status(), kAnswerRemedy));
  }
  checks.push_back(CheckSame(grpc, http));
  return checks;
}

}  // namespace conclave::cli
