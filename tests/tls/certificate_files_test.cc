#include "shared/tls/certificate_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <fstream>

#include "tests/support/authority.h"

namespace conclave::tls {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class CertificateFilesTest : public ::testing::Test {
 protected:
  std::string Fault(const CertificateFiles& files) {
    const auto read = ReadCertificates(files);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << read.status();
    return std::string(read.status().message());
  }
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = dir_.path() / name;
    std::ofstream(path) << text;
    return path;
  }

  testing::TempDir dir_;
  testing::Authority authority_;
};

TEST_F(CertificateFilesTest, GoodOnesAreReadWithTheirEnd) {
  const auto read = ReadCertificates(authority_.Issue(dir_.path(), "one", {.until_s = 600}));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_THAT(read->cert_pem, HasSubstr("BEGIN CERTIFICATE"));
  EXPECT_THAT(read->key_pem, HasSubstr("PRIVATE KEY"));
  EXPECT_EQ(read->ca_pem, authority_.pem());
  EXPECT_NEAR(static_cast<double>(read->expires_unix_s), static_cast<double>(time(nullptr) + 600),
              5);
}

TEST_F(CertificateFilesTest, TheFirstOfAChainToEndCounts) {
  CertificateFiles files = authority_.Issue(dir_.path(), "one", {.until_s = 600});
  std::ofstream(files.cert, std::ios::app) << authority_.pem();  // ends in a day
  const auto read = ReadCertificates(files);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_LT(read->expires_unix_s, time(nullptr) + 700);
}

TEST_F(CertificateFilesTest, NoFilesAreNoCertificates) {
  const auto read = ReadCertificates({});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, Certificates());
  EXPECT_FALSE(CertificateFiles().configured());
}

TEST_F(CertificateFilesTest, EachFaultNamesItsSettingAndFile) {
  const CertificateFiles good = authority_.Issue(dir_.path(), "one");
  CertificateFiles bad = good;
  bad.key.clear();
  EXPECT_THAT(Fault(bad), HasSubstr("tls_cert_file is set without tls_key_file"));
  bad = good;
  bad.cert.clear();
  EXPECT_THAT(Fault(bad), HasSubstr("tls_key_file is set without tls_cert_file"));
  bad = good;
  bad.cert = dir_.path() / "none.crt";
  EXPECT_THAT(Fault(bad), AllOf(HasSubstr("tls_cert_file"), HasSubstr("none.crt")));
  bad = good;
  bad.cert = Write("junk.crt", "no certificate");
  EXPECT_THAT(Fault(bad), AllOf(HasSubstr("tls_cert_file"), HasSubstr("holds no certificate")));
  bad = good;
  bad.key = Write("junk.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
  EXPECT_THAT(Fault(bad), AllOf(HasSubstr("tls_key_file"), HasSubstr("no private key")));
  bad = good;
  bad.ca = Write("junk-ca.crt", "");
  EXPECT_THAT(Fault(bad), AllOf(HasSubstr("tls_ca_file"), HasSubstr("junk-ca.crt")));
  bad = good;
  bad.key = authority_.Issue(dir_.path(), "other").key;
  EXPECT_THAT(Fault(bad), AllOf(HasSubstr("tls_key_file"), HasSubstr("is not the key of")));
  bad = good;
  bad.cert = dir_.path();
  EXPECT_THAT(Fault(bad), HasSubstr("tls_cert_file"));
}

TEST_F(CertificateFilesTest, ValidityIsChecked) {
  EXPECT_THAT(Fault(authority_.Issue(dir_.path(), "old", {.from_s = -7200, .until_s = -60})),
              AllOf(HasSubstr("tls_cert_file"), HasSubstr("expired on 2"), HasSubstr("UTC")));
  EXPECT_THAT(Fault(authority_.Issue(dir_.path(), "young", {.from_s = 600, .until_s = 7200})),
              HasSubstr("is valid from 2"));
}

TEST_F(CertificateFilesTest, NamesAreTheSubjectAlternativeOnes) {
  const auto read =
      ReadCertificates(authority_.Issue(dir_.path(), "one", {.names = {"DNS:conclave"}}));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(NamesHost(read->cert_pem, "conclave"));
  EXPECT_FALSE(NamesHost(read->cert_pem, "one"));  // only the subject's common name
  EXPECT_FALSE(NamesHost("", "conclave"));
}

}  // namespace
}  // namespace conclave::tls
