// The one place that maps absl::Status to gRPC's status, to HTTP and to OpenAI's error types, and
// back.
//
// Pure functions. Rich details (google.rpc.ErrorInfo, RetryInfo, BadRequest) travel as payloads of
// the absl::Status and as grpc-status-details-bin on the wire.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace conclave::rpc {

struct FieldViolation {
  std::string field = {};  // "sampling.temperature"
  std::string description = {};
};

struct ErrorDetails {
  std::string reason = {};  // UPPER_SNAKE_CASE, "CONTEXT_LENGTH_EXCEEDED"; empty: no ErrorInfo
  std::map<std::string, std::string> metadata = {};  // of the reason: {"limit": "2048"}
  int64_t retry_after_ms = -1;                       // below 0: none
  std::vector<FieldViolation> fields = {};
};

// The status with these details added (those of a kind that is already there are replaced). An OK
// status is returned unchanged.
absl::Status WithDetails(absl::Status status, const ErrorDetails& details);
// INVALID_ARGUMENT for one field: the message is "FIELD: DESCRIPTION".
absl::Status InvalidField(std::string field, std::string description);
// The details a status carries; malformed payloads count as absent.
ErrorDetails DetailsOf(const absl::Status& status);

// To and from the wire, details included. A code that gRPC does not know becomes UNKNOWN.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

// Whether the same call may succeed if repeated unchanged: UNAVAILABLE, RESOURCE_EXHAUSTED,
// ABORTED.
bool IsRetryable(absl::StatusCode code);

// The fields of OpenAI's error object and its HTTP status.
struct HttpError {
  int http_status = 500;
  std::string type = {};   // "invalid_request_error", ...
  std::string code = {};   // the reason in lower case, "context_length_exceeded"; empty: null
  std::string param = {};  // the first field violation's field; empty: null
  std::string message = {};
  int64_t retry_after_s = 0;  // for the Retry-After header, rounded up; 0: no header
};
// Precondition: not OK.
HttpError ToHttp(const absl::Status& status);

}  // namespace conclave::rpc
