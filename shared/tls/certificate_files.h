// The certificate of a process and the authorities it trusts, read from PEM files and checked.
//
// Functions and values; thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::tls {

// Where they lie. The prefix is that of the settings' names in error messages: "gateway.server" for
// gateway.server_cert_file.
struct CertificateFiles {
  std::string prefix = "tls";
  std::string cert = {};  // own certificate, then the ones between it and the authority
  std::string key = {};   // its private key, not encrypted
  std::string ca = {};    // the authorities that others' certificates are checked against

  bool configured() const { return !cert.empty() || !key.empty() || !ca.empty(); }
};

struct Certificates {
  std::string cert_pem, key_pem, ca_pem;  // empty where no file is named
  int64_t expires_unix_s = 0;             // the first of the own chain to expire; 0: no certificate
  friend bool operator==(const Certificates&, const Certificates&) = default;
};

// INVALID_ARGUMENT naming the setting, the file, what was found and what to change: a file that
// cannot be read, is no PEM, or names a key of another certificate; a certificate without its key;
// one that has expired or is not valid yet.
absl::StatusOr<Certificates> ReadCertificates(const CertificateFiles& files);

// "2027-01-31 12:00:00 UTC".
std::string UtcText(int64_t unix_s);

// Whether the first certificate of the PEM text names the host (subjectAltName, RFC 6125).
bool NamesHost(const std::string& cert_pem, const std::string& host);

}  // namespace conclave::tls
