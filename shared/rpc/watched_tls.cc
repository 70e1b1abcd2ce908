#include "shared/rpc/watched_tls.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"

namespace conclave::rpc {
namespace {

absl::Status CheckComplete(const tls::CertificateFiles& files) {
  for (const auto& [part, path] :
       {std::pair{"_cert_file", &files.cert}, {"_key_file", &files.key}, {"_ca_file", &files.ca}}) {
    if (!path->empty()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(files.prefix, part, " is not set; mutual TLS needs ", files.prefix,
                     "_cert_file, ", files.prefix, "_key_file and ", files.prefix, "_ca_file"));
  }
  return absl::OkStatus();
}

absl::Status CheckName(const tls::CertificateFiles& files, const tls::Certificates& certificates,
                       const std::string& server_name) {
  if (tls::NamesHost(certificates.cert_pem, server_name)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(files.prefix, "_cert_file: the certificate in ", files.cert,
                   " has no subject alternative name DNS:", server_name,
                   ", by which the processes address each other; issue it for that name, or set "
                   "tls_server_name"));
}

}  // namespace

absl::StatusOr<WatchedTls> StartClusterTls(const tls::CertificateFiles& files,
                                           const std::string& server_name,
                                           metrics::Registry* registry) {
  WatchedTls made;
  ASSIGN_OR_RETURN(made.credentials, ReadClusterTls(files, server_name));
  if (!made.credentials) return made;
  ASSIGN_OR_RETURN(made.watch,
                   tls::CertificateWatch::Start(
                       files, "cluster", registry,
                       [credentials = made.credentials](const tls::Certificates& certificates) {
                         credentials->Update(certificates);
                       }));
  return made;
}

absl::StatusOr<std::shared_ptr<TlsCredentials>> ReadClusterTls(const tls::CertificateFiles& files,
                                                               const std::string& server_name) {
  if (!files.configured()) return nullptr;
  RETURN_IF_ERROR(CheckComplete(files));
  ASSIGN_OR_RETURN(const tls::Certificates certificates, tls::ReadCertificates(files));
  RETURN_IF_ERROR(CheckName(files, certificates, server_name));
  return TlsCredentials::Make(certificates, server_name);
}

}  // namespace conclave::rpc
