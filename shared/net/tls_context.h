// The TLS side of a server: a certificate that may be replaced while connections live. TLS 1.3
// only, one protocol only.
//
// Thread-safe.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "shared/base/mutex.h"
#include "shared/net/asio.h"
#include "shared/tls/certificate_files.h"

namespace conclave::net {

// What ALPN settles (RFC 7301). A client that offers other protocols alone is told so by the
// handshake. One that offers nothing speaks HTTP/1.1: Chosen tells the two apart.
enum class Protocol { kHttp1, kHttp2 };

class TlsContext {
 public:
  explicit TlsContext(Protocol protocol) : protocol_(protocol) {}

  // New connections use these from now on. INVALID_ARGUMENT when OpenSSL refuses them; then those
  // of before stay.
  absl::Status Use(const tls::Certificates& certificates) EXCLUDES(mutex_);

  // For one connection, which keeps it.
  std::shared_ptr<boost::asio::ssl::context> current() const EXCLUDES(mutex_);

  // Whether the handshake has settled on a protocol.
  static bool Chosen(const SSL* tls);

 private:
  const Protocol protocol_;
  mutable Mutex mutex_;
  std::shared_ptr<boost::asio::ssl::context> current_ GUARDED_BY(mutex_);
};

}  // namespace conclave::net
