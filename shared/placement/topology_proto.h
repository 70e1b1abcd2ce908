// Topology and membership to and from their protocol buffers. Used by the membership client and the
// controller's service.
#pragma once

#include "conclave/v1/placement.pb.h"
#include "google/protobuf/repeated_field.h"
#include "shared/placement/topology.h"

namespace conclave::placement {

void ToProto(const Epoch& epoch, v1::Epoch* proto);
Epoch FromProto(const v1::Epoch& proto);

void ToProto(const ExpertKeys& experts,
             google::protobuf::RepeatedPtrField<v1::LayerExperts>* proto);
ExpertKeys FromProto(const google::protobuf::RepeatedPtrField<v1::LayerExperts>& proto);

void ToProto(const ModelIdentity& model, v1::ModelIdentity* proto);
ModelIdentity FromProto(const v1::ModelIdentity& proto);

void ToProto(const HostSocket& socket, v1::HostSocket* proto);
HostSocket FromProto(const v1::HostSocket& proto);

void ToProto(const Topology& topology, v1::Topology* proto);
Topology FromProto(const v1::Topology& proto);

}  // namespace conclave::placement
