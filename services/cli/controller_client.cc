#include "services/cli/controller_client.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "conclave/v1/placement.grpc.pb.h"
#include "services/cli/rpc_words.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"
#include "shared/rpc/watched_tls.h"

namespace conclave::cli {
namespace {

std::string KindName(v1::MemberKind kind) {
  switch (kind) {
    case v1::MEMBER_KIND_GATEWAY:
      return "gateway";
    case v1::MEMBER_KIND_ENGINE:
      return "engine";
    case v1::MEMBER_KIND_EXPERT:
      return "expert";
    default:
      return "unknown";
  }
}

std::string StateName(const v1::Member& member) {
  if (!member.live()) return member.report().leaving() ? "left" : "lost";
  switch (member.report().state()) {
    case v1::MEMBER_STATE_READY:
      return "ready";
    case v1::MEMBER_STATE_DRAINING:
      return "draining";
    default:
      return member.report().kind() == v1::MEMBER_KIND_GATEWAY ? "not ready" : "loading";
  }
}

MemberInfo FromProto(const v1::Member& member) {
  const v1::MemberReport& report = member.report();
  MemberInfo info;
  info.name = report.name();
  info.kind = KindName(report.kind());
  info.state = StateName(member);
  info.live = member.live();
  info.address = report.address();
  info.ops_address = report.ops_address();
  info.host = report.host();
  info.version = report.version();
  info.note = report.note();
  info.pid = report.pid();
  info.fingerprint = report.model().fingerprint();
  info.served_name = report.model().served_name();
  info.numerics_class = report.model().numerics_class();
  info.num_moe_layers = report.model().moe_layers_size();
  info.num_experts = report.model().num_experts();
  for (const v1::LayerExperts& layer : report.holds()) {
    for (const int32_t expert : layer.experts()) info.holds.emplace_back(layer.layer(), expert);
  }
  info.resident_bytes = report.resident_bytes();
  info.running = report.engine_load().running() + report.gateway_load().running();
  info.waiting = report.engine_load().waiting();
  info.context_tokens = report.engine_load().context_tokens();
  info.kv_used_ratio = report.engine_load().kv_used_ratio();
  info.tokens_per_second = report.engine_load().tokens_per_second();
  info.rows_per_second = report.expert_load().rows_per_second();
  return info;
}

// A channel that shows the cluster's secret and id.
absl::StatusOr<rpc::Channel> OpenChannel(const std::string& address, const CommonOptions& common) {
  ASSIGN_OR_RETURN(rpc::ClusterSecret secret, rpc::ClusterSecret::Load(common.cluster_secret_file));
  ASSIGN_OR_RETURN(auto tls, rpc::ReadClusterTls(common.tls, common.tls_server_name));
  return rpc::Channel({.address = address,
                       .secret = std::move(secret),
                       .cluster = std::make_shared<rpc::ClusterId>(common.cluster_id),
                       .tls = std::move(tls)});
}

// What a failed call means, to a person.
absl::Status Explain(const grpc::Status& status, const std::string& controller,
                     const CommonOptions& common) {
  if (status.error_code() != grpc::StatusCode::UNAUTHENTICATED) {
    return InWords(rpc::FromGrpc(status), "controller", controller, StateDir(common));
  }
  const std::string& file = common.cluster_secret_file;
  return absl::UnauthenticatedError(
      absl::StrCat("the controller at ", controller,
                   file.empty() ? std::string(" asks for its cluster's secret")
                                : absl::StrCat(" has another cluster secret than ", file, " holds"),
                   "; give --cluster-secret-file the file that the cluster was started with"));
}

}  // namespace

absl::StatusOr<std::string> FindController(const Context& context) {
  const auto running = ReadRunningCluster(context.state_dir);
  if (running.ok()) return running->controller_address;
  for (const Settings::Row& row : context.rows) {
    if (row.key == "controller_address" && row.source != "default") return row.value;
  }
  return running.status();
}

absl::StatusOr<ClusterMembers> ListMembers(const std::string& controller,
                                           const CommonOptions& common,
                                           std::chrono::milliseconds timeout) {
  ASSIGN_OR_RETURN(const rpc::Channel channel, OpenChannel(controller, common));
  grpc::ClientContext context;
  channel.Prepare(&context, timeout);
  v1::ListMembersResponse response;
  const grpc::Status status =
      v1::PlacementService::NewStub(channel.grpc())->ListMembers(&context, {}, &response);
  if (!status.ok()) return Explain(status, controller, common);
  ClusterMembers members{response.epoch().term(), response.epoch().number(), {}};
  for (const v1::Member& member : response.members()) members.members.push_back(FromProto(member));
  return members;
}

absl::StatusOr<std::vector<Event>> ListEvents(const std::string& controller,
                                              const CommonOptions& common, int last) {
  ASSIGN_OR_RETURN(const rpc::Channel channel, OpenChannel(controller, common));
  grpc::ClientContext context;
  channel.Prepare(&context, std::chrono::seconds(3));
  v1::ListEventsRequest request;
  request.set_last(last);
  v1::ListEventsResponse response;
  const grpc::Status status =
      v1::PlacementService::NewStub(channel.grpc())->ListEvents(&context, request, &response);
  if (!status.ok()) return Explain(status, controller, common);
  std::vector<Event> events;
  for (const v1::ClusterEvent& event : response.events()) {
    const bool lost = absl::StartsWith(event.text(), "lost:");
    events.push_back({event.unix_ms(), event.member(), event.text(), lost});
  }
  return events;
}

}  // namespace conclave::cli
