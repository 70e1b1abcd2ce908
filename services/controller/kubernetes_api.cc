#include "services/controller/kubernetes_api.h"

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"
#include "shared/base/version.h"
#include "shared/http/http_call.h"

namespace conclave::controller {
namespace {

constexpr uint64_t kMaxFileBytes = 1 << 20;

absl::StatusOr<std::string> ReadPart(const std::string& folder, const char* name) {
  const absl::StatusOr<std::string> text = ReadRegularFile(folder + "/" + name, kMaxFileBytes);
  if (text.ok()) return std::string(absl::StripAsciiWhitespace(*text));
  return absl::FailedPreconditionError(absl::StrCat(
      std::string(text.status().message()),
      ": controller.lease_name needs the pod's service account (automountServiceAccountToken)"));
}

}  // namespace

absl::StatusOr<KubernetesApi::Options> KubernetesApi::FromEnvironment(
    const std::string& service_account) {
  const char* host = std::getenv("KUBERNETES_SERVICE_HOST");
  const char* port = std::getenv("KUBERNETES_SERVICE_PORT");
  if (host == nullptr || *host == '\0' || port == nullptr || *port == '\0') {
    return absl::FailedPreconditionError(
        "controller.lease_name is set, and KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are "
        "not: this is no pod of Kubernetes; leave lease_name empty to go by the state file alone");
  }
  return Options{.host = host, .port = port, .service_account = service_account};
}

absl::StatusOr<std::string> KubernetesApi::Namespace() const {
  return ReadPart(options_.service_account, "namespace");
}

absl::StatusOr<KubernetesApi::Answer> KubernetesApi::Call(const std::string& method,
                                                          const std::string& path,
                                                          const nlohmann::json& body) const {
  ASSIGN_OR_RETURN(const std::string token, ReadPart(options_.service_account, "token"));
  ASSIGN_OR_RETURN(const std::string authority, ReadPart(options_.service_account, "ca.crt"));
  http::HttpCall call{.host = options_.host,
                      .port = options_.port,
                      .authorities_pem = authority,
                      .method = method,
                      .path = path,
                      .headers = {{"User-Agent", absl::StrCat("conclave/", std::string(Version()))},
                                  {"Authorization", absl::StrCat("Bearer ", token)},
                                  {"Accept", "application/json"}},
                      .timeout = options_.timeout};
  if (!body.is_null()) {
    call.headers.emplace_back("Content-Type", "application/json");
    call.body = body.dump();
  }
  const absl::StatusOr<http::HttpCallAnswer> answer = http::CallHttp(call);
  if (absl::IsInvalidArgument(answer.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat(options_.service_account,
                     "/ca.crt holds no certificate: ", std::string(answer.status().message())));
  }
  if (absl::IsFailedPrecondition(answer.status())) {
    return absl::FailedPreconditionError(absl::StrCat(std::string(answer.status().message()),
                                                      ": the API server is not trusted by ",
                                                      options_.service_account, "/ca.crt"));
  }
  RETURN_IF_ERROR(answer.status());
  if (IsNestedTooDeeply(answer->body))
    return absl::UnavailableError(absl::StrCat(path, ": the answer is nested too deeply"));
  nlohmann::json parsed = nlohmann::json::parse(answer->body, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) parsed = nullptr;
  return Answer{.status = answer->status, .body = std::move(parsed)};
}

}  // namespace conclave::controller
