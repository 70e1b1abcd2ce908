#include "shared/rpc/tls_credentials.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "shared/base/log.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/grpc_log.h"

namespace conclave::rpc {
namespace {

namespace experimental = grpc::experimental;

constexpr unsigned kRefreshSeconds = 1;

// A text that gRPC reads as a file. gRPC 1.51 takes new certificates from files only; given those
// of the user it would also take faulty ones, and drop the good ones for them. So it reads these,
// which hold what has been checked.
class MemoryFile {
 public:
  MemoryFile() = default;
  ~MemoryFile() {
    if (fd_ >= 0) close(fd_);
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  absl::Status Replace(const std::string& text) {
    const int fresh = memfd_create("conclave-tls", MFD_CLOEXEC);
    const bool written =
        fresh >= 0 && write(fresh, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    // The descriptor's number is the file's name: it changes its file in one step.
    const bool placed = written && (fd_ < 0 || dup3(fresh, fd_, O_CLOEXEC) >= 0);
    const int error = errno;
    if (placed && fd_ < 0) {
      fd_ = fresh;
    } else if (fresh >= 0) {
      close(fresh);
    }
    if (placed) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat("no memory file for a certificate: ", std::strerror(error)));
  }

  std::string path() const { return absl::StrCat("/proc/self/fd/", fd_); }

 private:
  int fd_ = -1;
};

// gRPC 1.51 has no setting for the least version. Without a cipher of TLS 1.2 that both sides can
// use (this one needs keys shared beforehand, which gRPC never has) a handshake of 1.2 fails; those
// of 1.3 are not concerned.
void AllowOnlyTls13() { setenv("GRPC_SSL_CIPHER_SUITES", "PSK-AES256-GCM-SHA384", 1); }

}  // namespace

struct TlsCredentials::State {
  absl::Status Write(const tls::Certificates& certificates) {
    // The order in which gRPC reads them.
    if (has_authorities) RETURN_IF_ERROR(ca.Replace(certificates.ca_pem));
    if (has_identity) {
      RETURN_IF_ERROR(key.Replace(certificates.key_pem));
      RETURN_IF_ERROR(cert.Replace(certificates.cert_pem));
    }
    return absl::OkStatus();
  }

  std::string server_name;
  bool has_identity = false;
  bool has_authorities = false;
  MemoryFile cert, key, ca;
  std::shared_ptr<experimental::CertificateProviderInterface> provider;
};

absl::StatusOr<std::shared_ptr<TlsCredentials>> TlsCredentials::Make(
    const tls::Certificates& certificates, std::string server_name) {
  AllowOnlyTls13();
  RouteGrpcLog();
  auto state = std::make_unique<State>();
  state->server_name = std::move(server_name);
  state->has_identity = !certificates.cert_pem.empty();
  state->has_authorities = !certificates.ca_pem.empty();
  RETURN_IF_ERROR(state->Write(certificates));
  state->provider = std::make_shared<experimental::FileWatcherCertificateProvider>(
      state->has_identity ? state->key.path() : "", state->has_identity ? state->cert.path() : "",
      state->has_authorities ? state->ca.path() : "", kRefreshSeconds);
  return std::shared_ptr<TlsCredentials>(new TlsCredentials(std::move(state)));
}

TlsCredentials::TlsCredentials(std::unique_ptr<State> state) : state_(std::move(state)) {}
TlsCredentials::~TlsCredentials() = default;

const std::string& TlsCredentials::server_name() const { return state_->server_name; }

void TlsCredentials::Update(const tls::Certificates& certificates) {
  if (const absl::Status written = state_->Write(certificates); !written.ok()) {
    LogError("the new certificates are not used yet", {{"error", std::string(written.message())}});
  }
}

std::shared_ptr<grpc::ServerCredentials> TlsCredentials::ForServer() const {
  experimental::TlsServerCredentialsOptions options(state_->provider);
  options.watch_identity_key_cert_pairs();
  options.watch_root_certs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  return experimental::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> TlsCredentials::ForChannel() const {
  experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(state_->provider);
  options.watch_root_certs();
  if (state_->has_identity) options.watch_identity_key_cert_pairs();
  options.set_verify_server_certs(true);
  options.set_check_call_host(true);
  options.set_certificate_verifier(std::make_shared<experimental::HostNameCertificateVerifier>());
  return experimental::TlsCredentials(options);
}

}  // namespace conclave::rpc
