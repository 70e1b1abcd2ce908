#include "services/gateway/grpc_prepare.h"

#include <utility>

#include "services/gateway/grpc_messages.h"
#include "shared/base/status_macros.h"

namespace conclave::gateway {

namespace {

std::string Metadata(const grpc::ServerContextBase& context, const char* name) {
  const auto found = context.client_metadata().find(name);
  if (found == context.client_metadata().end()) return "";
  return std::string(found->second.data(), found->second.size());
}

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

CallOrigin CallOrigin::Of(const grpc::ServerContextBase& context, const Clock& clock) {
  CallOrigin origin;
  const auto deadline = context.deadline();
  if (deadline != std::chrono::system_clock::time_point::max()) {
    origin.deadline = clock.Now() + (deadline - std::chrono::system_clock::now());
  }
  origin.traceparent = Metadata(context, "traceparent");
  origin.authorization = Metadata(context, "authorization");
  origin.request_id = Metadata(context, "x-request-id");
  return origin;
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
