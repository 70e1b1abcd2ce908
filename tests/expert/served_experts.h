// A real worker without membership, for tests: some experts of a checkpoint, the compute loop, and
// a gRPC server on a free port.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "kernels/context.h"
#include "services/expert/compute_loop.h"
#include "services/expert/expert_service.h"
#include "services/expert/host_link_server.h"
#include "services/expert/in_flight_limit.h"
#include "services/expert/worker_metrics.h"
#include "shared/base/clock.h"
#include "shared/experts/expert_set.h"
#include "shared/metrics/registry.h"
#include "shared/placement/topology.h"
#include "shared/rpc/server.h"
#include "shared/weights/checkpoint.h"

namespace conclave::expert {

inline std::shared_ptr<const weights::Checkpoint> OpenGolden(const std::string& name) {
  auto checkpoint =
      weights::Checkpoint::Open(std::string(CONCLAVE_SOURCE_DIR "/tests/golden/") + name, {});
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return *std::move(checkpoint);
}

inline placement::ModelIdentity IdentityOf(const weights::Checkpoint& checkpoint,
                                           kernels::NumericsClass numerics) {
  placement::ModelIdentity identity;
  identity.numerics_class = std::string(kernels::NumericsClassName(numerics));
  identity.fingerprint = checkpoint.Fingerprint(identity.numerics_class);
  identity.num_layers = checkpoint.config().num_layers;
  for (int32_t layer = 0; layer < identity.num_layers; ++layer) {
    if (checkpoint.config().IsMoe(layer)) identity.moe_layers.push_back(layer);
  }
  identity.num_experts = checkpoint.config().moe.num_experts;
  return identity;
}

class ServedExperts {
 public:
  struct Options {
    std::string name = "expert-0";
    std::string listen = "127.0.0.1:0";
    std::string host_path = {};  // of a socket for engines of this host; empty: none
    kernels::NumericsClass numerics = kernels::NumericsClass::kBf16;
    rpc::ClusterSecret secret = {};
    std::shared_ptr<const rpc::ClusterId> cluster = {};
    size_t window_bytes = 32 << 20;
    size_t limit_bytes = 256 << 20;
    double unit_budget_ns = 1e6;
  };

  ServedExperts(const std::shared_ptr<const weights::Checkpoint>& checkpoint,
                const Options& options)
      : options_(options),
        metrics_(&registry_),
        limit_(options.limit_bytes),
        experts_(checkpoint, options.numerics) {
    const placement::ModelIdentity identity = IdentityOf(*checkpoint, options.numerics);
    compute_ =
        std::make_unique<ComputeLoop>(ComputeOptions{.cpu_level = kernels::BestCpuLevel(),
                                                     .num_threads = 1,
                                                     .unit_budget_ns = options.unit_budget_ns},
                                      &experts_, &clock_, &metrics_);
    StreamContext context;
    context.hello.fingerprint = *rpc::ParseFingerprint(identity.fingerprint);
    context.hello.numerics = options.numerics;
    context.hello.row_type = kernels::RowTypeOf(options.numerics);
    context.hello.window_bytes = options.window_bytes;
    context.hello.name = options.name;
    context.hidden = static_cast<uint32_t>(checkpoint->config().hidden);
    context.num_layers = static_cast<uint32_t>(identity.num_layers);
    context.num_experts = static_cast<uint32_t>(identity.num_experts);
    context.compute = compute_.get();
    context.limit = &limit_;
    context.clock = &clock_;
    host_context_ = context;
    service_ = std::make_unique<ExpertService>(std::move(context), options.secret, options.cluster);
    Serve(options.listen);
  }

  void Serve(const std::string& listen) {
    if (!options_.host_path.empty()) ServeHost();
    grpc::Service* const services[] = {service_.get()};
    auto server = rpc::Server::Start(
        {.name = options_.name, .listen = listen, .secret = options_.secret}, services);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    address_ = server_->address();
  }

  // The process dies, as far as anyone can see from outside.
  void Kill() {
    host_links_ = nullptr;
    server_ = nullptr;
  }

  // The port stays.
  void CloseHostLinks() { host_links_ = nullptr; }
  void ResetHostLinks() {
    CloseHostLinks();
    ServeHost();
  }

  void Load(const placement::ExpertKeys& keys) {
    for (const placement::ExpertKey& key : keys) {
      const absl::Status loaded = experts_.Load({key.layer, key.expert});
      ASSERT_TRUE(loaded.ok()) << loaded;
    }
  }

  const std::string& address() const { return address_; }
  const std::string& host_path() const { return options_.host_path; }
  experts::ExpertSet& experts() { return experts_; }
  ComputeLoop& compute() { return *compute_; }
  InFlightLimit& limit() { return limit_; }
  metrics::Registry& registry() { return registry_; }

 private:
  void ServeHost() {
    auto host = HostLinkServer::Start({.path = options_.host_path,
                                       .name = options_.name,
                                       .secret = options_.secret,
                                       .cluster = options_.cluster,
                                       .context = &host_context_});
    ASSERT_TRUE(host.ok()) << host.status();
    host_links_ = *std::move(host);
  }

  const Options options_;
  SteadyClock clock_;
  metrics::Registry registry_;
  WorkerMetrics metrics_;
  InFlightLimit limit_;
  experts::ExpertSet experts_;
  std::unique_ptr<ExpertService> service_;
  StreamContext host_context_;
  std::unique_ptr<ComputeLoop> compute_;
  std::unique_ptr<HostLinkServer> host_links_;
  std::unique_ptr<rpc::Server> server_;
  std::string address_;
};

}  // namespace conclave::expert
