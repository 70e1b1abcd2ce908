// The API server of the Kubernetes that this process runs in: JSON over HTTPS.
//
// Thread-safe; a connection of its own for each call, which blocks until the answer or the timeout.
// The server shows a certificate of the cluster's authority (TLS 1.2 or later); the token and the
// authority are read from their files at every call, because Kubernetes renews them.
#pragma once

#include <chrono>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace conclave::controller {

class KubernetesApi {
 public:
  // Where Kubernetes puts a pod's identity.
  static constexpr char kServiceAccountFolder[] = "/var/run/secrets/kubernetes.io/serviceaccount";

  struct Options {
    std::string host;  // name or number
    std::string port;
    std::string service_account;  // folder of token, ca.crt and namespace
    std::chrono::milliseconds timeout{2000};
  };
  struct Answer {
    int status = 0;
    nlohmann::json body;  // null when there is none
  };

  // The server that Kubernetes names in the environment (KUBERNETES_SERVICE_HOST and ..._PORT).
  // FAILED_PRECONDITION where there is none: not a pod.
  static absl::StatusOr<Options> FromEnvironment(const std::string& service_account);

  explicit KubernetesApi(Options options) : options_(std::move(options)) {}

  // The pod's namespace, from the service account.
  absl::StatusOr<std::string> Namespace() const;

  // `method` "GET", "POST" or "PUT"; `body` null: none. Any status that the server answers with is
  // an answer; UNAVAILABLE when there is none in time, FAILED_PRECONDITION for unusable files or a
  // certificate of somebody else.
  absl::StatusOr<Answer> Call(const std::string& method, const std::string& path,
                              const nlohmann::json& body = nullptr) const;

 private:
  const Options options_;
};

}  // namespace conclave::controller
