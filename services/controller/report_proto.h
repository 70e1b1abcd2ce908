// Reports and member rows to and from their protocol buffers.
#pragma once

#include "conclave/v1/placement.pb.h"
#include "services/controller/cluster.h"

namespace conclave::controller {

Report FromProto(const v1::MemberReport& proto);
void ToProto(const MemberRow& row, v1::Member* proto);
void ToProto(const placement::ClusterView& view, v1::ControllerUpdate* proto);

}  // namespace conclave::controller
