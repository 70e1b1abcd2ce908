// TLS for gRPC, with certificates that may be replaced while connections live: new connections use
// the new ones.
//
// TLS 1.3 only. Thread-safe. Must outlive the servers and channels made with it, each of whose
// handshakes reads it: rpc::Server and rpc::Channel hold it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "shared/tls/certificate_files.h"

namespace conclave::rpc {

class TlsCredentials {
 public:
  // `certificates`: as read; a channel needs the authorities, a server and a channel to one all
  // three. UNAVAILABLE when the system has no memory files left. `server_name`: the name that a
  // server's certificate must have, whatever address it is called by; empty: the host of its
  // address.
  static absl::StatusOr<std::shared_ptr<TlsCredentials>> Make(const tls::Certificates& certificates,
                                                              std::string server_name = "");
  ~TlsCredentials();

  // From the next second on, new connections use these. The same parts are present as at the start.
  void Update(const tls::Certificates& certificates);

  // Demands of clients a certificate of one of the authorities.
  std::shared_ptr<grpc::ServerCredentials> ForServer() const;
  // Demands of the server a certificate of one of the authorities, for `server_name`.
  std::shared_ptr<grpc::ChannelCredentials> ForChannel() const;
  const std::string& server_name() const;

 private:
  struct State;
  explicit TlsCredentials(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace conclave::rpc
