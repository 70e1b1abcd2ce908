#include "tests/support/authority.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <fstream>
#include <utility>

#include "absl/strings/str_join.h"

namespace conclave::testing {
namespace {

template <typename Write>
std::string ToPem(Write write) {
  BIO* const bio = BIO_new(BIO_s_mem());
  write(bio);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<size_t>(size));
  BIO_free(bio);
  return text;
}

std::string CertificatePem(X509* certificate) {
  return ToPem([certificate](BIO* bio) { PEM_write_bio_X509(bio, certificate); });
}

void AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

// Written beside and renamed over, as whoever renews certificates does.
void WriteFile(const std::filesystem::path& path, const std::string& text) {
  const std::filesystem::path fresh = path.string() + ".new";
  std::ofstream(fresh) << text;
  std::filesystem::rename(fresh, path);
}

}  // namespace

Authority::Authority(const std::string& name) {
  const Signed own = Sign(name, {.names = {}, .from_s = -3600, .until_s = 86'400}, true);
  certificate_ = own.certificate;
  key_ = own.key;
  pem_ = CertificatePem(certificate_);
}

Authority::~Authority() {
  X509_free(certificate_);
  EVP_PKEY_free(key_);
}

Authority::Signed Authority::Sign(const std::string& name, const Wish& wish, bool authority) {
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  X509* const certificate = X509_new();
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial_++);
  X509_gmtime_adj(X509_getm_notBefore(certificate), wish.from_s);
  X509_gmtime_adj(X509_getm_notAfter(certificate), wish.until_s);
  X509_set_pubkey(certificate, key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509* const issuer = authority ? certificate : certificate_;
  X509_set_issuer_name(certificate, X509_get_subject_name(issuer));
  AddExtension(certificate, issuer, NID_basic_constraints,
               authority ? "critical,CA:TRUE" : "critical,CA:FALSE");
  if (!wish.names.empty()) {
    AddExtension(certificate, issuer, NID_subject_alt_name, absl::StrJoin(wish.names, ","));
  }
  X509_sign(certificate, authority ? key : key_, EVP_sha256());
  return {certificate, key};
}

tls::CertificateFiles Authority::Issue(const std::filesystem::path& folder, const std::string& stem,
                                       const Wish& wish) {
  const Signed issued = Sign(stem, wish, false);
  tls::CertificateFiles files = {.prefix = "tls",
                                 .cert = folder / (stem + ".crt"),
                                 .key = folder / (stem + ".key"),
                                 .ca = folder / "authority.crt"};
  WriteFile(files.key, ToPem([&](BIO* bio) {
              PEM_write_bio_PrivateKey(bio, issued.key, nullptr, nullptr, 0, nullptr, nullptr);
            }));
  WriteFile(files.cert, CertificatePem(issued.certificate));
  WriteFile(files.ca, pem_);
  X509_free(issued.certificate);
  EVP_PKEY_free(issued.key);
  return files;
}

}  // namespace conclave::testing
