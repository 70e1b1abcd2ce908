// What the gateway's HTTP handlers read of a request before they know what it asks for.
//
// Pure.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "absl/status/statusor.h"
#include "shared/base/clock.h"
#include "shared/http/message.h"

namespace conclave::gateway {

// The body as a JSON object. INVALID_ARGUMENT, with the reason UNSUPPORTED_MEDIA_TYPE for another
// Content-Type.
absl::StatusOr<nlohmann::json> ParseJsonBody(const http::Request& request);

// When the patience of x-request-timeout-ms ends; nullopt: it is not given.
absl::StatusOr<std::optional<TimePoint>> RequestDeadline(const http::Request& request,
                                                         TimePoint arrival);

}  // namespace conclave::gateway
