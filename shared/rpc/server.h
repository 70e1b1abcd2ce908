// The gRPC server of the processes that talk to each other (clients meet shared/h2): one listening
// address, grpc.health.v1, reflection, limits, keep-alive rules, and an orderly end.
//
// Owned by a service's main thread; thread-safe. Borrows the services, which outlive it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/impl/codegen/service_type.h"
#include "grpcpp/support/server_callback.h"
#include "shared/rpc/cluster_secret.h"
#include "shared/rpc/tls_credentials.h"

namespace conclave::rpc {

struct ServerOptions {
  std::string name = {};    // what error messages call it: "expert worker expert-0"
  std::string listen = {};  // host:port (port 0: any) or unix:/path
  // An address beyond loopback needs this, `tls`, or `insecure`.
  ClusterSecret secret = {};
  bool insecure = false;
  // Only processes with a certificate of the cluster's authorities may connect. Null: not
  // encrypted.
  std::shared_ptr<const TlsCredentials> tls = {};
  int64_t max_receive_bytes = 8 << 20;    // a larger message fails its call with RESOURCE_EXHAUSTED
  int32_t max_concurrent_streams = 1024;  // of one connection; further calls wait in the client
  // Full names of services that health checks may ask for: v1::EngineService::service_full_name().
  std::vector<std::string> health_names = {};
};

class Server {
 public:
  // Errors: INVALID_ARGUMENT (malformed address), FAILED_PRECONDITION (an address beyond loopback
  // without secret or insecure), UNAVAILABLE (address in use, not ours, or not permitted): each
  // names the address and what to change. Every service starts as not serving.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       std::span<grpc::Service* const> services);
  ~Server();  // Drain without grace

  // The address really bound, with the real port.
  const std::string& address() const;
  int port() const;  // 0 for a Unix socket

  // What grpc.health.v1 answers, for every name in health_names and for "" (the process).
  void SetServing(bool serving);

  // Reports not serving, takes no new calls, waits until running calls end or the grace is over,
  // then cancels the rest. Idempotent.
  void Drain(std::chrono::milliseconds grace);

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// A reactor that ends a stream at once with `status`: what a callback method returns when it
// refuses a call.
template <typename Request, typename Response>
grpc::ServerBidiReactor<Request, Response>* RefuseStream(const grpc::Status& status) {
  class Refusal final : public grpc::ServerBidiReactor<Request, Response> {
   public:
    explicit Refusal(const grpc::Status& status) { this->Finish(status); }
    void OnDone() override { delete this; }
  };
  return new Refusal(status);
}

}  // namespace conclave::rpc
