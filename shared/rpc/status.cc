#include "shared/rpc/status.h"

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace conclave::rpc {
namespace {

constexpr char kDomain[] = "conclave";
constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";
constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
// Details travel in a trailer, and peers limit those to 8 KiB in all; larger details are left out,
// the message stays.
constexpr size_t kMaxDetailsBytes = 4096;

template <typename Message>
std::optional<Message> Payload(const absl::Status& status, const char* url) {
  const absl::optional<absl::Cord> bytes = status.GetPayload(url);
  Message message;
  if (!bytes.has_value() || !message.ParseFromString(std::string(*bytes))) return std::nullopt;
  return message;
}

}  // namespace

absl::Status WithDetails(absl::Status status, const ErrorDetails& details) {
  if (status.ok()) return status;
  if (!details.reason.empty()) {
    google::rpc::ErrorInfo info;
    info.set_reason(details.reason);
    info.set_domain(kDomain);
    info.mutable_metadata()->insert(details.metadata.begin(), details.metadata.end());
    status.SetPayload(kErrorInfoUrl, absl::Cord(info.SerializeAsString()));
  }
  if (details.retry_after_ms >= 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(details.retry_after_ms / 1000);
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(details.retry_after_ms % 1000) *
                                           1'000'000);
    status.SetPayload(kRetryInfoUrl, absl::Cord(retry.SerializeAsString()));
  }
  if (!details.fields.empty()) {
    google::rpc::BadRequest bad;
    for (const FieldViolation& violation : details.fields) {
      auto* entry = bad.add_field_violations();
      entry->set_field(violation.field);
      entry->set_description(violation.description);
    }
    status.SetPayload(kBadRequestUrl, absl::Cord(bad.SerializeAsString()));
  }
  return status;
}

absl::Status InvalidField(std::string field, std::string description) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, ": ", description));
  ErrorDetails details;
  details.fields.push_back({std::move(field), std::move(description)});
  return WithDetails(std::move(status), details);
}

ErrorDetails DetailsOf(const absl::Status& status) {
  ErrorDetails details;
  if (const auto info = Payload<google::rpc::ErrorInfo>(status, kErrorInfoUrl)) {
    details.reason = info->reason();
    details.metadata.insert(info->metadata().begin(), info->metadata().end());
  }
  if (const auto retry = Payload<google::rpc::RetryInfo>(status, kRetryInfoUrl)) {
    details.retry_after_ms =
        retry->retry_delay().seconds() * 1000 + retry->retry_delay().nanos() / 1'000'000;
  }
  if (const auto bad = Payload<google::rpc::BadRequest>(status, kBadRequestUrl)) {
    for (const auto& violation : bad->field_violations()) {
      details.fields.push_back({violation.field(), violation.description()});
    }
  }
  return details;
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status rich;
  rich.set_code(static_cast<int>(status.code()));
  rich.set_message(std::string(status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& bytes) {
    auto* detail = rich.add_details();
    detail->set_type_url(std::string(url));
    detail->set_value(std::string(bytes));
  });
  std::string details;
  if (rich.details_size() > 0) details = rich.SerializeAsString();
  if (details.size() > kMaxDetailsBytes) details.clear();
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      details);
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const int code = status.error_code();
  const bool known = code > 0 && code <= static_cast<int>(absl::StatusCode::kUnauthenticated);
  absl::Status result(known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown,
                      status.error_message());
  google::rpc::Status rich;
  if (!status.error_details().empty() && rich.ParseFromString(status.error_details())) {
    for (const auto& detail : rich.details())
      result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
  }
  return result;
}

bool IsRetryable(absl::StatusCode code) {
  return code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kResourceExhausted ||
         code == absl::StatusCode::kAborted;
}

HttpError ToHttp(const absl::Status& status) {
  HttpError error;
  error.message = std::string(status.message());
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      error.http_status = 400;
      error.type = "invalid_request_error";
      break;
    case absl::StatusCode::kUnauthenticated:
      error.http_status = 401;
      error.type = "authentication_error";
      break;
    case absl::StatusCode::kPermissionDenied:
      error.http_status = 403;
      error.type = "permission_error";
      break;
    case absl::StatusCode::kNotFound:
      error.http_status = 404;
      error.type = "invalid_request_error";
      break;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      error.http_status = 409;
      error.type = "invalid_request_error";
      break;
    case absl::StatusCode::kResourceExhausted:
      error.http_status = 429;
      error.type = "rate_limit_error";
      break;
    case absl::StatusCode::kCancelled:
      error.http_status = 499;  // the client closed the request: nginx' code, seen in logs only
      error.type = "server_error";
      break;
    case absl::StatusCode::kUnimplemented:
      error.http_status = 501;
      error.type = "invalid_request_error";
      break;
    case absl::StatusCode::kUnavailable:
      error.http_status = 503;
      error.type = "server_error";
      break;
    case absl::StatusCode::kDeadlineExceeded:
      error.http_status = 504;
      error.type = "server_error";
      break;
    default:
      error.http_status = 500;
      error.type = "server_error";
      break;
  }
  const ErrorDetails details = DetailsOf(status);
  error.code = absl::AsciiStrToLower(details.reason);
  if (!details.fields.empty()) error.param = details.fields.front().field;
  if (details.retry_after_ms >= 0)
    error.retry_after_s = std::max<int64_t>(1, (details.retry_after_ms + 999) / 1000);
  return error;
}

}  // namespace conclave::rpc
