// An authority of a test's own: issues certificates as files.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "shared/tls/certificate_files.h"
#include "tests/support/temp_dir.h"

struct x509_st;
struct evp_pkey_st;

namespace conclave::testing {

class Authority {
 public:
  explicit Authority(const std::string& name = "test authority");
  ~Authority();
  Authority(const Authority&) = delete;
  Authority& operator=(const Authority&) = delete;

  struct Wish {
    std::vector<std::string> names = {"DNS:conclave", "IP:127.0.0.1"};
    int64_t from_s = -3600;  // counted from now
    int64_t until_s = 3600;
  };
  // Writes <stem>.crt and <stem>.key into the folder, over those of before; with them the paths of
  // all three files.
  tls::CertificateFiles Issue(const std::filesystem::path& folder, const std::string& stem,
                              const Wish& wish);
  tls::CertificateFiles Issue(const std::filesystem::path& folder, const std::string& stem) {
    return Issue(folder, stem, Wish());
  }

  const std::string& pem() const { return pem_; }

 private:
  struct Signed {
    x509_st* certificate;
    evp_pkey_st* key;
  };
  Signed Sign(const std::string& name, const Wish& wish, bool authority);

  x509_st* certificate_ = nullptr;
  evp_pkey_st* key_ = nullptr;
  std::string pem_;
  long serial_ = 1;
};

}  // namespace conclave::testing
