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

absl::StatusOr<PreparedRequest> Prepare(Frontend* frontend, const v1::GenerateRequest& request,
                                        const CallOrigin& origin) {
  PreparedRequest prepared;
  const TimePoint arrival = frontend->clock().Now();
  ASSIGN_OR_RETURN(prepared.admission, frontend->Admit());
  ASSIGN_OR_RETURN(GenerationInput input, FromProto(request));
  if (input.request_id.empty()) input.request_id = origin.request_id;
  input.deadline = origin.deadline;
  input.traceparent = origin.traceparent;
  input.arrival = arrival;
  ASSIGN_OR_RETURN(prepared.generation, frontend->Prepare(std::move(input), GrpcFieldNames()));
  return prepared;
}

}  // namespace

CallOrigin CallOrigin::Of(const grpc::ServerContextBase& context, const Clock& clock) {
  CallOrigin origin;
  const auto deadline = context.deadline();
  if (deadline != std::chrono::system_clock::time_point::max()) {
    origin.deadline = clock.Now() + (deadline - std::chrono::system_clock::now());
  }
  origin.traceparent = Metadata(context, "traceparent");
  origin.request_id = Metadata(context, "x-request-id");
  return origin;
}

absl::StatusOr<PreparedRequest> PrepareGrpc(Frontend* frontend, const v1::GenerateRequest& request,
                                            const CallOrigin& origin) {
  absl::StatusOr<PreparedRequest> prepared = Prepare(frontend, request, origin);
  if (!prepared.ok()) frontend->RecordRequest("grpc", prepared.status());
  return prepared;
}

}  // namespace conclave::gateway
