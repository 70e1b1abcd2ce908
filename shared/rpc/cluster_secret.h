// The secret that the processes of one cluster show each other, and who must show it.
//
// Read once at start; immutable and thread-safe afterwards. What travels is derived from the
// secret, never the secret itself (which also signs resume tokens); the connection is not
// encrypted, so a network beyond the host must be trusted or tunnelled (docs/two-machines.md).
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "grpcpp/client_context.h"
#include "grpcpp/server_context.h"

namespace conclave::rpc {

class ClusterSecret {
 public:
  // No secret: nothing is attached and nothing is demanded.
  ClusterSecret() = default;
  // `secret`: any bytes, at least one.
  explicit ClusterSecret(std::string_view secret);

  // Reads a file; surrounding white space is dropped. An empty path gives no secret. NOT_FOUND or
  // INVALID_ARGUMENT (empty, or shorter than 16 bytes) names the file and how to make one.
  static absl::StatusOr<ClusterSecret> Load(const std::string& path);

  bool configured() const { return !token_.empty(); }
  // The secret's bytes, for deriving further keys.
  const std::string& bytes() const { return secret_; }

  // Client side: shows the secret on a call, before it starts.
  void Attach(grpc::ClientContext* context) const;

  // Server side: OK, or UNAUTHENTICATED with the remedy. Compares in constant time. Every method
  // between processes of a cluster calls this first; health, reflection and the public API do not.
  grpc::Status Check(const grpc::ServerContextBase& context) const;

  // Where it is shown in another way than on a call: what travels, empty without a secret; and the
  // same check of what came.
  const std::string& token() const { return token_; }
  absl::Status CheckShown(std::string_view token) const;

 private:
  std::string secret_;
  std::string token_;  // 64 hex digits: HMAC-SHA256 of a fixed text under the secret
};

}  // namespace conclave::rpc
