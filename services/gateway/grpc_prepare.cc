#include "services/gateway/grpc_prepare.h"

#include <utility>

#include "services/gateway/grpc_messages.h"
#include "services/gateway/wire_message.h"
#include "shared/base/status_macros.h"

namespace conclave::gateway {

namespace {

absl::StatusOr<Generation> Prepare(Frontend* frontend, const Principal& principal,
                                   const GrpcRequest& request, TimePoint arrival) {
  v1::GenerateRequest message;
  RETURN_IF_ERROR(request.parse(&message));
  ASSIGN_OR_RETURN(GenerationInput input, FromProto(message));
  if (input.request_id.empty()) input.request_id = request.origin->request_id;
  input.deadline = request.origin->deadline;
  input.traceparent = request.origin->traceparent;
  input.arrival = arrival;
  return frontend->Prepare(principal, std::move(input), GrpcFieldNames(), request.interrupt.get());
}

}  // namespace

CallOrigin CallOrigin::Of(const h2::CallStart& start) {
  CallOrigin origin;
  origin.deadline = start.deadline;
  origin.traceparent = start.metadata.Find("traceparent").value_or("");
  origin.authorization = start.metadata.Find("authorization").value_or("");
  origin.request_id = start.metadata.Find("x-request-id").value_or("");
  return origin;
}

std::function<absl::Status(v1::GenerateRequest*)> ParserOf(std::string_view bytes) {
  if (bytes.size() <= kShortPromptBytes) {
    return [bytes](v1::GenerateRequest* message) { return ParseWire(bytes, message); };
  }
  return [kept = std::make_shared<const std::string>(bytes)](v1::GenerateRequest* message) {
    return ParseWire(*kept, message);
  };
}

void PrepareGrpc(Frontend* frontend, GrpcRequest request) {
  const TimePoint arrival = frontend->clock().Now();
  const auto fail = [frontend](const GrpcRequest& failed, const std::string& tenant,
                               const absl::Status& why) {
    frontend->RecordRequest("grpc", tenant, why);
    failed.done(why);
  };
  // Before the wait for the lane: who is one too many hears it at once.
  const auto principal = frontend->Authenticate(request.origin->authorization);
  absl::StatusOr<Admission> admission =
      principal.ok() ? frontend->Admit(**principal) : absl::StatusOr<Admission>(principal.status());
  if (!admission.ok()) {
    fail(request, principal.ok() ? (*principal)->tenant.name : "", admission.status());
    return;
  }
  const size_t bytes = request.bytes;
  std::string tenant = (*principal)->tenant.name;
  std::shared_ptr<text::Interrupt> interrupt = request.interrupt;
  auto run = [frontend, fail, arrival, principal = *principal, request = std::move(request),
              admission = *std::move(admission)](const absl::Status& turn) mutable {
    absl::StatusOr<Generation> generation = turn.ok()
                                                ? Prepare(frontend, *principal, request, arrival)
                                                : absl::StatusOr<Generation>(turn);
    if (!generation.ok()) {
      fail(request, principal->tenant.name, generation.status());
      return;
    }
    request.done(PreparedRequest{std::move(admission), *std::move(generation)});
  };
  if (bytes <= kShortPromptBytes) {  // as the lane would, without the cost of a place in it
    run(absl::OkStatus());
    return;
  }
  frontend->prompts().Run({.bytes = bytes,
                           .tenant = std::move(tenant),
                           .interrupt = std::move(interrupt),
                           .run = std::move(run)});
}

}  // namespace conclave::gateway
