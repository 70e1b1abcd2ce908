// A process' mutual TLS with the others of its cluster: credentials that follow their files.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "shared/metrics/registry.h"
#include "shared/rpc/tls_credentials.h"
#include "shared/tls/certificate_watch.h"

namespace conclave::rpc {

struct WatchedTls {
  std::shared_ptr<TlsCredentials> credentials;   // null: no TLS
  std::unique_ptr<tls::CertificateWatch> watch;  // writes to them
};

// `files` without any file: no TLS. Otherwise all three are needed, and the certificate must name
// `server_name`, by which every process of the cluster is addressed. Errors as
// tls::ReadCertificates.
absl::StatusOr<WatchedTls> StartClusterTls(const tls::CertificateFiles& files,
                                           const std::string& server_name,
                                           metrics::Registry* registry);

// The same for a process that only calls and ends soon: nothing is watched.
absl::StatusOr<std::shared_ptr<TlsCredentials>> ReadClusterTls(const tls::CertificateFiles& files,
                                                               const std::string& server_name);

}  // namespace conclave::rpc
