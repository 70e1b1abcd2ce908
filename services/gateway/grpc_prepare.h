// The first half of every gRPC generation: from the call and its message to an admitted, canonical
// request.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "conclave/v1/inference.pb.h"
#include "grpcpp/server_context.h"
#include "services/gateway/frontend.h"

namespace conclave::gateway {

// What a call says about its requests besides their messages.
struct CallOrigin {
  std::optional<TimePoint> deadline;
  std::string traceparent;
  std::string request_id;  // metadata x-request-id, for requests that have none

  static CallOrigin Of(const grpc::ServerContextBase& context, const Clock& clock);
};

struct PreparedRequest {
  Admission admission;
  Generation generation;
};

// Failures are counted in the metrics.
absl::StatusOr<PreparedRequest> PrepareGrpc(Frontend* frontend, const v1::GenerateRequest& request,
                                            const CallOrigin& origin);

}  // namespace conclave::gateway
