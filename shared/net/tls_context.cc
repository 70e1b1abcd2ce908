#include "shared/net/tls_context.h"

#include <openssl/ssl.h>

#include <string_view>

#include "absl/strings/str_cat.h"

namespace conclave::net {
namespace {

namespace ssl = boost::asio::ssl;
using boost::system::error_code;

// What ALPN offers, each name after its length.
constexpr std::string_view kHttp1Name = "\x08http/1.1", kHttp2Name = "\x02h2";

int ChooseProtocol(SSL*, const unsigned char** chosen, unsigned char* chosen_length,
                   const unsigned char* offered, unsigned offered_length, void* name) {
  const auto& own = *static_cast<const std::string_view*>(name);
  unsigned char* found = nullptr;
  const int result = SSL_select_next_proto(
      &found, chosen_length, reinterpret_cast<const unsigned char*>(own.data()),
      static_cast<unsigned>(own.size()), offered, offered_length);
  *chosen = found;
  return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

}  // namespace

absl::Status TlsContext::Use(const tls::Certificates& certificates) {
  auto context = std::make_shared<ssl::context>(ssl::context::tlsv13_server);
  error_code error;
  const auto fault = [&error](const char* what) {
    return absl::InvalidArgumentError(
        absl::StrCat("the ", what, " cannot be used for TLS: ", error.message()));
  };
  const auto buffer = [](const std::string& text) {
    return boost::asio::const_buffer(text.data(), text.size());
  };
  context->use_certificate_chain(buffer(certificates.cert_pem), error);
  if (error) return fault("certificate");
  context->use_private_key(buffer(certificates.key_pem), ssl::context::pem, error);
  if (error) return fault("key");
  SSL_CTX* const raw = context->native_handle();
  SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION);
  SSL_CTX_set_mode(raw, SSL_MODE_RELEASE_BUFFERS);  // 34 KiB less of an idle connection
  const std::string_view* const name = protocol_ == Protocol::kHttp1 ? &kHttp1Name : &kHttp2Name;
  SSL_CTX_set_alpn_select_cb(raw, ChooseProtocol, const_cast<std::string_view*>(name));
  // Without early data nothing can be replayed.
  SSL_CTX_set_max_early_data(raw, 0);
  MutexLock lock(mutex_);
  current_ = std::move(context);
  return absl::OkStatus();
}

bool TlsContext::Chosen(const SSL* tls) {
  const unsigned char* name = nullptr;
  unsigned length = 0;
  SSL_get0_alpn_selected(tls, &name, &length);
  return length > 0;
}

std::shared_ptr<ssl::context> TlsContext::current() const {
  MutexLock lock(mutex_);
  return current_;
}

}  // namespace conclave::net
