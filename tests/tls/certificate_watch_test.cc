#include "shared/tls/certificate_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>

#include "shared/base/bounded_queue.h"
#include "tests/support/authority.h"

namespace conclave::tls {
namespace {

using ::testing::HasSubstr;

constexpr auto kPatience = std::chrono::seconds(20);

class CertificateWatchTest : public ::testing::Test {
 protected:
  void Start(const CertificateFiles& files) {
    auto watch = CertificateWatch::Start(
        files, "cluster", &registry_,
        [this](const Certificates& certificates) { changes_.TryPush(Certificates(certificates)); });
    ASSERT_TRUE(watch.ok()) << watch.status();
    watch_ = *std::move(watch);
  }

  testing::TempDir dir_;
  testing::Authority authority_;
  metrics::Registry registry_;
  BoundedQueue<Certificates> changes_{8};
  std::unique_ptr<CertificateWatch> watch_;
};

TEST_F(CertificateWatchTest, FaultyFilesAtTheStartAreAnError) {
  CertificateFiles files = authority_.Issue(dir_.path(), "one");
  files.key = files.cert;
  EXPECT_EQ(CertificateWatch::Start(files, "cluster", &registry_, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(CertificateWatchTest, RenewedCertificatesAreTold) {
  const CertificateFiles files = authority_.Issue(dir_.path(), "one", {.until_s = 600});
  Start(files);
  const double before = static_cast<double>(watch_->first().expires_unix_s);
  authority_.Issue(dir_.path(), "one", {.until_s = 6000});
  // The key was renewed a moment before its certificate: the pair may be seen half renewed, which
  // is a fault and changes nothing.
  const auto fresh = changes_.PopFor(kPatience);
  ASSERT_TRUE(fresh.has_value());
  EXPECT_EQ(*fresh, *ReadCertificates(files));
  EXPECT_GT(static_cast<double>(fresh->expires_unix_s), before + 5000);
}

TEST_F(CertificateWatchTest, FaultyFilesChangeNothing) {
  const CertificateFiles files = authority_.Issue(dir_.path(), "one");
  Start(files);
  std::ofstream(files.cert) << "half a certificate";
  authority_.Issue(dir_.path(), "two");  // the next that is looked at
  EXPECT_FALSE(changes_.PopFor(std::chrono::milliseconds(2500)).has_value());
  EXPECT_THAT(registry_.Expose(), HasSubstr(R"(conclave_file_faulty{use="cluster"} 1)"));
  const auto renewed = authority_.Issue(dir_.path(), "one");
  const auto fresh = changes_.PopFor(kPatience);
  ASSERT_TRUE(fresh.has_value());
  EXPECT_EQ(*fresh, *ReadCertificates(renewed));
  EXPECT_THAT(registry_.Expose(), HasSubstr(R"(conclave_file_faulty{use="cluster"} 0)"));
}

TEST_F(CertificateWatchTest, TheEndIsAMetric) {
  Start(authority_.Issue(dir_.path(), "one"));
  EXPECT_THAT(registry_.Expose(),
              HasSubstr(R"(conclave_certificate_expiry_timestamp_seconds{use="cluster"} )"));
}

}  // namespace
}  // namespace conclave::tls
