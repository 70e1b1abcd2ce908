#include "services/gateway/grpc_prepare.h"

#include <utility>

#include "services/gateway/grpc_messages.h"
#include "services/gateway/wire_message.h"
#include "shared/base/status_macros.h"

namespace conclave::gateway {

namespace {

// A request on its way, moved from the I/O thread to a lane if it must be.
class Preparation {
 public:
  Preparation(Frontend* frontend, GrpcRequest request)
      : frontend_(frontend), request_(std::move(request)), arrival_(frontend->clock().Now()) {}

  // Before the wait for a lane: who is one too many hears it at once.
  absl::Status Admit() {
    ASSIGN_OR_RETURN(principal_, frontend_->Authenticate(request_.origin->authorization));
    ASSIGN_OR_RETURN(admission_, frontend_->Admit(*principal_));
    return absl::OkStatus();
  }
  // Quick for a short request.
  absl::Status Check() {
    v1::GenerateRequest message;
    RETURN_IF_ERROR(request_.parse(&message));
    ASSIGN_OR_RETURN(GenerationInput input, FromProto(message));
    if (input.request_id.empty()) input.request_id = request_.origin->request_id;
    input.deadline = request_.origin->deadline;
    input.traceparent = request_.origin->traceparent;
    input.arrival = arrival_;
    ASSIGN_OR_RETURN(checked_, frontend_->Check(*principal_, std::move(input), names_));
    return absl::OkStatus();
  }
  bool checked() const { return checked_.has_value(); }
  bool kept() const { return checked_->kept_answer() != nullptr; }
  void Encode() {
    absl::StatusOr<Generation> generation =
        frontend_->Encode(*std::move(checked_), names_, request_.interrupt.get());
    if (!generation.ok()) {
      Fail(generation.status());
      return;
    }
    request_.done(PreparedRequest{std::move(admission_), *std::move(generation)});
  }
  void Fail(const absl::Status& why) {
    frontend_->RecordRequest("grpc", tenant(), why);
    admission_.reset();  // first: who is refused may come again at once
    request_.done(why);
  }

  const GrpcRequest& request() const { return request_; }
  std::string tenant() const { return principal_ ? principal_->tenant.name : ""; }

 private:
  Frontend* frontend_;
  GrpcRequest request_;
  TimePoint arrival_;
  FieldNames names_ = GrpcFieldNames();
  std::shared_ptr<const Principal> principal_;
  Admission admission_;
  std::optional<Frontend::Checked> checked_;
};

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
  Preparation preparation(frontend, std::move(request));
  const size_t bytes = preparation.request().bytes;
  absl::Status status = preparation.Admit();
  if (status.ok() && bytes <= kShortPromptBytes) status = preparation.Check();
  if (!status.ok()) {
    preparation.Fail(status);
    return;
  }
  if (preparation.checked() &&
      (preparation.kept() || PromptLanes::IsQuick(preparation.request().message_bytes))) {
    preparation.Encode();
    return;
  }
  std::string tenant = preparation.tenant();
  std::shared_ptr<text::Interrupt> interrupt = preparation.request().interrupt;
  frontend->prompts().Queue(
      {.bytes = bytes,
       .tenant = std::move(tenant),
       .interrupt = std::move(interrupt),
       .run = [preparation = std::move(preparation)](const absl::Status& turn) mutable {
         absl::Status ready = turn;
         if (ready.ok() && !preparation.checked()) ready = preparation.Check();
         ready.ok() ? preparation.Encode() : preparation.Fail(ready);
       }});
}

}  // namespace conclave::gateway
