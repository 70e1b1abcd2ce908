#include "services/gateway/http_request.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/gateway/excerpt.h"
#include "services/gateway/json_fields.h"
#include "services/gateway/strict_json.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

using nlohmann::json;

constexpr int64_t kMaxTimeoutMs = 24 * 3600 * 1000;

}  // namespace

absl::StatusOr<json> ParseJsonBody(const http::Request& request) {
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

absl::StatusOr<std::optional<TimePoint>> RequestDeadline(const http::Request& request,
                                                         TimePoint arrival) {
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

}  // namespace conclave::gateway
