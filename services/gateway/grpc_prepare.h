// The first half of every gRPC generation: from the call and its bytes to an admitted, canonical
// request.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "conclave/v1/inference.pb.h"
#include "services/gateway/frontend.h"
#include "shared/h2/server_call.h"
#include "shared/text/interrupt.h"

namespace conclave::gateway {

// What a call says about its requests besides their messages.
struct CallOrigin {
  std::optional<TimePoint> deadline;
  std::string traceparent;
  std::string authorization;
  std::string request_id;  // metadata x-request-id, for requests that have none

  static CallOrigin Of(const h2::CallStart& start);
};

struct PreparedRequest {
  Admission admission;
  Generation generation;
};

// Parses a GenerateRequest when its turn comes. The bytes of a short one are read where they lie,
// since PrepareGrpc parses it at once; those of a long one are kept.
std::function<absl::Status(v1::GenerateRequest*)> ParserOf(std::string_view bytes);

// A request of a call. Failures are counted in the metrics.
struct GrpcRequest {
  size_t bytes = 0;          // of the request
  size_t message_bytes = 0;  // of the message that it came in, perhaps with others
  // Gives the request, or why there is none; called where it is prepared.
  std::function<absl::Status(v1::GenerateRequest*)> parse;
  std::shared_ptr<const CallOrigin> origin;
  // Ends the wait for a prompt lane, and the encoding of the prompt.
  std::shared_ptr<text::Interrupt> interrupt;
  // Called once: at once for a small message and where the answer is kept, else from a prompt lane
  // when the request's turn comes.
  std::function<void(absl::StatusOr<PreparedRequest>)> done;
};
// On I/O threads: takes about a millisecond at most for all requests of a message that must be
// encoded, and microseconds for one whose answer is kept.
void PrepareGrpc(Frontend* frontend, GrpcRequest request);

}  // namespace conclave::gateway
