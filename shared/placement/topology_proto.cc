#include "shared/placement/topology_proto.h"

namespace conclave::placement {

void ToProto(const Epoch& epoch, v1::Epoch* proto) {
  proto->set_term(epoch.term);
  proto->set_number(epoch.number);
}

Epoch FromProto(const v1::Epoch& proto) { return {proto.term(), proto.number()}; }

void ToProto(const ExpertKeys& experts,
             google::protobuf::RepeatedPtrField<v1::LayerExperts>* proto) {
  v1::LayerExperts* layer = nullptr;
  for (const ExpertKey& key : experts) {
    if (layer == nullptr || layer->layer() != key.layer) {
      layer = proto->Add();
      layer->set_layer(key.layer);
    }
    layer->add_experts(key.expert);
  }
}

ExpertKeys FromProto(const google::protobuf::RepeatedPtrField<v1::LayerExperts>& proto) {
  ExpertKeys experts;
  for (const v1::LayerExperts& layer : proto) {
    for (const int32_t expert : layer.experts()) experts.insert({layer.layer(), expert});
  }
  return experts;
}

void ToProto(const ModelIdentity& model, v1::ModelIdentity* proto) {
  proto->set_fingerprint(model.fingerprint);
  proto->set_served_name(model.served_name);
  proto->set_numerics_class(model.numerics_class);
  proto->set_num_layers(model.num_layers);
  proto->mutable_moe_layers()->Add(model.moe_layers.begin(), model.moe_layers.end());
  proto->set_num_experts(model.num_experts);
  proto->set_expert_bytes(model.expert_bytes);
}

ModelIdentity FromProto(const v1::ModelIdentity& proto) {
  ModelIdentity model;
  model.fingerprint = proto.fingerprint();
  model.served_name = proto.served_name();
  model.numerics_class = proto.numerics_class();
  model.num_layers = proto.num_layers();
  model.moe_layers.assign(proto.moe_layers().begin(), proto.moe_layers().end());
  model.num_experts = proto.num_experts();
  model.expert_bytes = proto.expert_bytes();
  return model;
}

void ToProto(const HostSocket& socket, v1::HostSocket* proto) {
  proto->set_host_id(socket.host_id);
  proto->set_path(socket.path);
}

HostSocket FromProto(const v1::HostSocket& proto) { return {proto.host_id(), proto.path()}; }

void ToProto(const Topology& topology, v1::Topology* proto) {
  proto->set_cluster_id(topology.cluster_id);
  ToProto(topology.epoch, proto->mutable_epoch());
  for (const ModelTopology& model : topology.models) {
    v1::ModelTopology* to = proto->add_models();
    ToProto(model.model, to->mutable_model());
    for (const TopologyWorker& worker : model.workers) {
      v1::TopologyWorker* w = to->add_workers();
      w->set_name(worker.name);
      w->set_address(worker.address);
      w->set_host(worker.host);
      if (!worker.host_socket.path.empty()) ToProto(worker.host_socket, w->mutable_host_socket());
      w->set_live(worker.live);
      ToProto(worker.hold, w->mutable_hold());
      ToProto(worker.serve, w->mutable_serve());
    }
  }
}

Topology FromProto(const v1::Topology& proto) {
  Topology topology;
  topology.cluster_id = proto.cluster_id();
  topology.epoch = FromProto(proto.epoch());
  for (const v1::ModelTopology& model : proto.models()) {
    ModelTopology& to = topology.models.emplace_back();
    to.model = FromProto(model.model());
    for (const v1::TopologyWorker& worker : model.workers()) {
      TopologyWorker& w = to.workers.emplace_back();
      w.name = worker.name();
      w.address = worker.address();
      w.host = worker.host();
      w.host_socket = FromProto(worker.host_socket());
      w.live = worker.live();
      w.hold = FromProto(worker.hold());
      w.serve = FromProto(worker.serve());
    }
  }
  return topology;
}

}  // namespace conclave::placement
