#include "shared/tls/certificate_files.h"

#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"

namespace conclave::tls {
namespace {

constexpr uint64_t kMostBytes = 1 << 20;

template <auto kFree>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, Freer<BIO_free>>;
using X509Pointer = std::unique_ptr<X509, Freer<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;

// One of the settings, and what its file holds.
struct Source {
  std::string setting;
  std::string path;
  std::string text = {};

  absl::Status Fault(std::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat(setting, ": ", path, " ", absl::string_view(what.data(), what.size())));
  }
};

absl::StatusOr<Source> Read(const CertificateFiles& files, const char* which,
                            const std::string& path) {
  Source source = {.setting = absl::StrCat(files.prefix, "_", which, "_file"), .path = path};
  absl::StatusOr<std::string> text = ReadRegularFile(path, kMostBytes);
  if (!text.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source.setting, ": ", std::string(text.status().message())));
  }
  source.text = *std::move(text);
  return source;
}

Bio BioOf(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

std::vector<X509Pointer> ParseCertificates(const std::string& pem) {
  std::vector<X509Pointer> found;
  const Bio bio = BioOf(pem);
  while (X509* each = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    found.emplace_back(each);
  }
  ERR_clear_error();  // the end of the file is one
  return found;
}

int64_t UnixSeconds(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return 0;
  return timegm(&parts);
}

// Sets when the first of the chain expires.
absl::Status CheckValidity(const Source& source, const std::vector<X509Pointer>& chain,
                           int64_t* expires) {
  const int64_t now = absl::ToUnixSeconds(absl::Now());
  for (const X509Pointer& each : chain) {
    const int64_t from = UnixSeconds(X509_get0_notBefore(each.get()));
    const int64_t until = UnixSeconds(X509_get0_notAfter(each.get()));
    if (until <= now) {
      return source.Fault(
          absl::StrCat("holds a certificate that expired on ", UtcText(until), "; renew it"));
    }
    if (from > now) {
      return source.Fault(absl::StrCat("holds a certificate that is valid from ", UtcText(from),
                                       " only; check this host's clock, or wait"));
    }
    *expires = *expires == 0 ? until : std::min(*expires, until);
  }
  return absl::OkStatus();
}

}  // namespace

std::string UtcText(int64_t unix_s) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::FromUnixSeconds(unix_s),
                          absl::UTCTimeZone());
}

absl::StatusOr<Certificates> ReadCertificates(const CertificateFiles& files) {
  Certificates certificates;
  if (files.cert.empty() != files.key.empty()) {
    const char* const given = files.cert.empty() ? "_key_file" : "_cert_file";
    const char* const missing = files.cert.empty() ? "_cert_file" : "_key_file";
    return absl::InvalidArgumentError(absl::StrCat(files.prefix, given, " is set without ",
                                                   files.prefix, missing,
                                                   "; a certificate and its key go together"));
  }
  if (!files.cert.empty()) {
    ASSIGN_OR_RETURN(const Source cert, Read(files, "cert", files.cert));
    ASSIGN_OR_RETURN(const Source key, Read(files, "key", files.key));
    const std::vector<X509Pointer> chain = ParseCertificates(cert.text);
    if (chain.empty()) {
      return cert.Fault("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)");
    }
    RETURN_IF_ERROR(CheckValidity(cert, chain, &certificates.expires_unix_s));
    // An encrypted key is refused instead of asking for a password at the terminal.
    const Key private_key(PEM_read_bio_PrivateKey(
        BioOf(key.text).get(), nullptr, [](char*, int, int, void*) { return 0; }, nullptr));
    ERR_clear_error();
    if (!private_key) {
      return key.Fault("holds no private key in PEM form that can be read without a password");
    }
    if (X509_check_private_key(chain.front().get(), private_key.get()) != 1) {
      ERR_clear_error();
      return key.Fault(absl::StrCat("is not the key of the first certificate in ", files.cert));
    }
    certificates.cert_pem = cert.text;
    certificates.key_pem = key.text;
  }
  if (!files.ca.empty()) {
    ASSIGN_OR_RETURN(const Source ca, Read(files, "ca", files.ca));
    if (ParseCertificates(ca.text).empty()) {
      return ca.Fault("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)");
    }
    certificates.ca_pem = ca.text;
  }
  return certificates;
}

bool NamesHost(const std::string& cert_pem, const std::string& host) {
  const std::vector<X509Pointer> chain = ParseCertificates(cert_pem);
  return !chain.empty() && X509_check_host(chain.front().get(), host.data(), host.size(),
                                           X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, nullptr) == 1;
}

}  // namespace conclave::tls
