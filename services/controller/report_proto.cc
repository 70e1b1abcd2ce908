#include "services/controller/report_proto.h"

#include "shared/placement/topology_proto.h"

namespace conclave::controller {
namespace {

void ToProto(const placement::EngineLoad& load, v1::EngineLoad* proto) {
  proto->set_running(load.running);
  proto->set_waiting(load.waiting);
  proto->set_queued_tokens(load.queued_tokens);
  proto->set_kv_used_ratio(load.kv_used_ratio);
  proto->set_context_tokens(load.context_tokens);
  proto->set_tokens_per_second(load.tokens_per_second);
  proto->set_last_step_age_ms(load.last_step_age_ms);
}

}  // namespace

Report FromProto(const v1::MemberReport& proto) {
  Report report;
  report.name = proto.name();
  report.incarnation = proto.incarnation();
  report.kind = static_cast<placement::MemberKind>(proto.kind());
  report.address = proto.address();
  report.ops_address = proto.ops_address();
  report.host = proto.host();
  report.host_socket = placement::FromProto(proto.host_socket());
  report.version = proto.version();
  report.pid = proto.pid();
  report.resident_bytes = proto.resident_bytes();
  report.leaving = proto.leaving();
  report.seen_epoch = placement::FromProto(proto.seen_epoch());
  report.highest_term = proto.highest_term();
  if (proto.has_last_topology()) report.last_topology = placement::FromProto(proto.last_topology());
  placement::MemberStatus& status = report.status;
  status.state = static_cast<placement::MemberState>(proto.state());
  if (proto.has_model()) status.model = placement::FromProto(proto.model());
  status.holds = placement::FromProto(proto.holds());
  status.capacity_bytes = proto.capacity_bytes();
  status.note = proto.note();
  const v1::EngineLoad& engine = proto.engine_load();
  status.engine = {engine.running(),         engine.waiting(),        engine.queued_tokens(),
                   engine.kv_used_ratio(),   engine.context_tokens(), engine.tokens_per_second(),
                   engine.last_step_age_ms()};
  status.expert = {proto.expert_load().rows_per_second(), proto.expert_load().queue_ms()};
  status.gateway = {proto.gateway_load().running()};
  return report;
}

void ToProto(const MemberRow& row, v1::Member* proto) {
  const Report& report = row.report;
  v1::MemberReport* to = proto->mutable_report();
  to->set_name(report.name);
  to->set_incarnation(report.incarnation);
  to->set_kind(static_cast<v1::MemberKind>(report.kind));
  to->set_state(static_cast<v1::MemberState>(report.status.state));
  to->set_address(report.address);
  to->set_ops_address(report.ops_address);
  to->set_pid(report.pid);
  to->set_host(report.host);
  placement::ToProto(report.host_socket, to->mutable_host_socket());
  to->set_version(report.version);
  if (report.status.model) placement::ToProto(*report.status.model, to->mutable_model());
  placement::ToProto(report.seen_epoch, to->mutable_seen_epoch());
  to->set_highest_term(report.highest_term);
  to->set_capacity_bytes(report.status.capacity_bytes);
  placement::ToProto(report.status.holds, to->mutable_holds());
  to->set_resident_bytes(report.resident_bytes);
  ToProto(report.status.engine, to->mutable_engine_load());
  to->mutable_expert_load()->set_rows_per_second(report.status.expert.rows_per_second);
  to->mutable_expert_load()->set_queue_ms(report.status.expert.queue_ms);
  to->mutable_gateway_load()->set_running(report.status.gateway.running);
  to->set_note(report.status.note);
  to->set_leaving(report.leaving);
  proto->set_live(row.live);
  proto->set_lease_remaining_ms(
      std::chrono::duration_cast<std::chrono::milliseconds>(row.lease_remaining).count());
}

void ToProto(const placement::ClusterView& view, v1::ControllerUpdate* proto) {
  for (const placement::EngineEndpoint& engine : view.engines) {
    v1::TopologyEngine* to = proto->add_engines();
    to->set_name(engine.name);
    to->set_address(engine.address);
    to->set_fingerprint(engine.fingerprint);
    to->set_served_name(engine.served_name);
    to->set_state(static_cast<v1::MemberState>(engine.state));
    ToProto(engine.load, to->mutable_load());
  }
}

}  // namespace conclave::controller
