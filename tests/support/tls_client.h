// A blocking TLS client for tests of servers.
#pragma once

#include <openssl/bio.h>
#include <openssl/ssl.h>

#include <csignal>
#include <string>
#include <string_view>

#include "shared/tls/certificate_files.h"

namespace conclave::testing {

class TlsClient {
 public:
  struct Options {
    tls::CertificateFiles files = {};  // `ca` checks the server; cert and key, if any, are shown
    std::string server_name = "conclave";
    int newest_version = TLS1_3_VERSION;
    std::string protocols = {};  // ALPN, each name after its length
  };
  // Connects and shakes hands.
  TlsClient(const std::string& address, const Options& options) {
    std::signal(SIGPIPE, SIG_IGN);  // to write to who has closed is no crash
    context_ = SSL_CTX_new(TLS_client_method());
    SSL_CTX_load_verify_file(context_, options.files.ca.c_str());
    SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_max_proto_version(context_, options.newest_version);
    if (!options.files.cert.empty()) {
      SSL_CTX_use_certificate_chain_file(context_, options.files.cert.c_str());
      SSL_CTX_use_PrivateKey_file(context_, options.files.key.c_str(), SSL_FILETYPE_PEM);
    }
    if (!options.protocols.empty()) {
      SSL_CTX_set_alpn_protos(context_,
                              reinterpret_cast<const unsigned char*>(options.protocols.data()),
                              static_cast<unsigned>(options.protocols.size()));
    }
    bio_ = BIO_new_ssl_connect(context_);
    BIO_get_ssl(bio_, &ssl_);
    SSL_set1_host(ssl_, options.server_name.c_str());
    BIO_set_conn_hostname(bio_, address.c_str());
    connected_ = BIO_do_connect(bio_) == 1;
  }
  ~TlsClient() {
    BIO_free_all(bio_);
    SSL_CTX_free(context_);
  }
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  bool connected() const { return connected_; }
  std::string version() const { return SSL_get_version(ssl_); }
  // Of the server's certificate; 0 when there is none.
  long serial() const {
    X509* const peer = SSL_get0_peer_certificate(ssl_);
    return peer == nullptr ? 0 : ASN1_INTEGER_get(X509_get0_serialNumber(peer));
  }
  std::string protocol() const {
    const unsigned char* name = nullptr;
    unsigned length = 0;
    SSL_get0_alpn_selected(ssl_, &name, &length);
    return std::string(reinterpret_cast<const char*>(name), length);
  }

  void Send(std::string_view bytes) {
    BIO_write(bio_, bytes.data(), static_cast<int>(bytes.size()));
  }
  // What comes until `end` has come, or the connection has ended.
  std::string ReadUntil(std::string_view end) {
    std::string text;
    char buffer[4096];
    while (text.find(end) == std::string::npos) {
      const int count = BIO_read(bio_, buffer, sizeof(buffer));
      if (count <= 0) break;
      text.append(buffer, static_cast<size_t>(count));
    }
    return text;
  }
  // Whether the server ended the connection as TLS asks for: by saying so.
  bool EndedInOrder() { return (SSL_get_shutdown(ssl_) & SSL_RECEIVED_SHUTDOWN) != 0; }

 private:
  SSL_CTX* context_ = nullptr;
  BIO* bio_ = nullptr;
  SSL* ssl_ = nullptr;
  bool connected_ = false;
};

}  // namespace conclave::testing
