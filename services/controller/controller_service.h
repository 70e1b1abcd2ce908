// PlacementService over a Cluster: the protocol buffers stop here.
//
// Thread-safe. A thread of its own ("tick") ends leases and plans; streams run on gRPC's threads.
#pragma once

#include <memory>
#include <string>

#include "conclave/v1/placement.grpc.pb.h"
#include "services/controller/cluster.h"
#include "shared/metrics/registry.h"
#include "shared/rpc/cluster_id.h"
#include "shared/rpc/cluster_secret.h"

namespace conclave::controller {

class ControllerService final : public v1::PlacementService::CallbackService {
 public:
  struct Options {
    Cluster::Options cluster;
    std::chrono::milliseconds report_period{500};
    uint64_t least_term = 0;  // from the Lease, where there is one
    std::string cluster_id;   // empty: the one kept in the state folder, else a drawn one
    std::string
        state_dir;  // controller.json with term and cluster id is kept here; empty: not kept
    rpc::ClusterSecret secret;
    metrics::Registry* registry = nullptr;  // outlives the service
  };
  // Takes a term above the one in the state file and writes it there. DATA_LOSS names an unreadable
  // state file.
  static absl::StatusOr<std::unique_ptr<ControllerService>> Create(const Options& options,
                                                                   const Clock* clock);
  ~ControllerService() override;

  // Ends all streams; no further ones are accepted.
  void Shutdown();

  int num_live_members() const;
  uint64_t term() const;
  std::string cluster_id() const;

  grpc::ServerBidiReactor<v1::MemberReport, v1::ControllerUpdate>* Join(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetTopology(grpc::CallbackServerContext* context,
                                        const v1::GetTopologyRequest* request,
                                        v1::Topology* response) override;
  grpc::ServerUnaryReactor* ListMembers(grpc::CallbackServerContext* context,
                                        const v1::ListMembersRequest* request,
                                        v1::ListMembersResponse* response) override;
  grpc::ServerUnaryReactor* ListEvents(grpc::CallbackServerContext* context,
                                       const v1::ListEventsRequest* request,
                                       v1::ListEventsResponse* response) override;

 private:
  class MemberStream;
  struct State;
  // Whether the caller shows the cluster's secret and is not of another cluster.
  grpc::Status Allowed(const grpc::ServerContextBase& context) const;
  explicit ControllerService(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace conclave::controller
