// The TLS side of an HTTP server: a certificate that may be replaced while connections live. TLS
// 1.3 only, HTTP/1.1 only.
//
// Thread-safe.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "shared/base/mutex.h"
#include "shared/http/asio.h"
#include "shared/tls/certificate_files.h"

namespace conclave::http {

class TlsContext {
 public:
  // New connections use these from now on. INVALID_ARGUMENT when OpenSSL refuses them; then those
  // of before stay.
  absl::Status Use(const tls::Certificates& certificates) EXCLUDES(mutex_);

  // For one connection, which keeps it.
  std::shared_ptr<boost::asio::ssl::context> current() const EXCLUDES(mutex_);

 private:
  mutable Mutex mutex_;
  std::shared_ptr<boost::asio::ssl::context> current_ GUARDED_BY(mutex_);
};

}  // namespace conclave::http
