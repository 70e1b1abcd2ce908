// gRPC servers and channels over TLS: who is let in, and certificates that are renewed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "shared/rpc/channel.h"
#include "shared/rpc/server.h"
#include "shared/rpc/watched_tls.h"
#include "tests/rpc/probe_service.h"
#include "tests/support/authority.h"
#include "tests/support/tls_client.h"
#include "tests/support/wait.h"

namespace conclave::rpc {
namespace {

using std::chrono::milliseconds;
using testing::Authority;
using ::testing::HasSubstr;
using testing::TlsClient;

class TlsTest : public ::testing::Test {
 protected:
  std::shared_ptr<TlsCredentials> Credentials(const tls::CertificateFiles& files,
                                              const std::string& name = "conclave") {
    const auto certificates = tls::ReadCertificates(files);
    EXPECT_TRUE(certificates.ok()) << certificates.status();
    auto made = TlsCredentials::Make(*certificates, name);
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
  void Start(std::shared_ptr<TlsCredentials> credentials) {
    grpc::Service* const services[] = {&service_};
    auto server = Server::Start(
        {.name = "probe", .listen = "127.0.0.1:0", .tls = std::move(credentials)}, services);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  grpc::Status Call(std::shared_ptr<TlsCredentials> credentials) {
    const Channel channel({.address = server_->address(), .tls = std::move(credentials)});
    return CallOn(channel);
  }
  grpc::Status CallOn(const Channel& channel) {
    grpc::ClientContext context;
    channel.Prepare(&context, milliseconds(10'000));
    return CallTokenize(channel.grpc(), &context, "hello");
  }

  testing::TempDir dir_;
  Authority authority_;
  ProbeService service_;
  std::unique_ptr<Server> server_;
};

TEST_F(TlsTest, ProcessesWithCertificatesOfOneAuthorityTalk) {
  Start(Credentials(authority_.Issue(dir_.path(), "server")));
  const grpc::Status called = Call(Credentials(authority_.Issue(dir_.path(), "client")));
  EXPECT_TRUE(called.ok()) << called.error_message();
}

TEST_F(TlsTest, WhoShowsNoCertificateOrAForeignOneIsRefused) {
  Start(Credentials(authority_.Issue(dir_.path(), "server")));
  EXPECT_FALSE(Call(Credentials({.ca = dir_.path() / "authority.crt"})).ok());
  Authority foreign("foreign authority");
  const testing::TempDir elsewhere;
  tls::CertificateFiles stranger = foreign.Issue(elsewhere.path(), "client");
  stranger.ca = dir_.path() / "authority.crt";  // trusts the server, but is not trusted by it
  EXPECT_FALSE(Call(Credentials(stranger)).ok());
  EXPECT_FALSE(Call(nullptr).ok());
  EXPECT_EQ(service_.calls(), 0);
}

TEST_F(TlsTest, AServerOfAForeignAuthorityOrAnotherNameIsNotTrusted) {
  Start(Credentials(authority_.Issue(dir_.path(), "server")));
  Authority foreign("foreign authority");
  const testing::TempDir elsewhere;
  const grpc::Status untrusted = Call(Credentials(foreign.Issue(elsewhere.path(), "client")));
  EXPECT_EQ(untrusted.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(untrusted.error_message(), HasSubstr("certificate verify failed"));
  const grpc::Status misnamed =
      Call(Credentials(authority_.Issue(dir_.path(), "client"), "another.name"));
  EXPECT_EQ(misnamed.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(misnamed.error_message(), HasSubstr("Hostname Verification"));
}

TEST_F(TlsTest, OnlyTls13IsSpoken) {
  const tls::CertificateFiles files = authority_.Issue(dir_.path(), "server");
  Start(Credentials(files));
  TlsClient::Options options = {.files = files, .protocols = "\x02h2"};
  TlsClient newest(server_->address(), options);
  EXPECT_TRUE(newest.connected());
  EXPECT_EQ(newest.version(), "TLSv1.3");
  options.newest_version = TLS1_2_VERSION;
  EXPECT_FALSE(TlsClient(server_->address(), options).connected());
}

TEST_F(TlsTest, RenewedCertificatesAreForNewConnectionsAndOldOnesLiveOn) {
  const tls::CertificateFiles files = authority_.Issue(dir_.path(), "server");
  const auto credentials = Credentials(files);
  Start(credentials);
  const Channel lasting(
      {.address = server_->address(), .tls = Credentials(authority_.Issue(dir_.path(), "client"))});
  ASSERT_TRUE(CallOn(lasting).ok());
  const TlsClient::Options options = {.files = files, .protocols = "\x02h2"};
  const long serial = TlsClient(server_->address(), options).serial();
  credentials->Update(*tls::ReadCertificates(authority_.Issue(dir_.path(), "server")));
  ASSERT_TRUE(
      testing::WaitFor([&] { return TlsClient(server_->address(), options).serial() != serial; }));
  EXPECT_TRUE(CallOn(lasting).ok());
  EXPECT_EQ(service_.num_peers(), 1u);  // the same connection
}

// gRPC reads the certificates again each second, and drops authorities that are gone.
TEST_F(TlsTest, AChannelAndAServerKeepTheirCertificatesForLaterConnections) {
  Start(Credentials(authority_.Issue(dir_.path(), "server")));
  const Channel lasting(
      {.address = server_->address(), .tls = Credentials(authority_.Issue(dir_.path(), "client"))});
  ASSERT_TRUE(CallOn(lasting).ok());
  std::this_thread::sleep_for(milliseconds(2'500));
  EXPECT_TRUE(Call(Credentials(authority_.Issue(dir_.path(), "newcomer"))).ok());
  const std::string address = server_->address();
  server_.reset();
  grpc::Service* const services[] = {&service_};
  auto again = Server::Start({.name = "probe",
                              .listen = address,
                              .tls = Credentials(authority_.Issue(dir_.path(), "server"))},
                             services);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(testing::WaitFor([&] { return CallOn(lasting).ok(); }));
}

TEST_F(TlsTest, FilesOfAClusterAreCheckedTogether) {
  const auto fault = [](const tls::CertificateFiles& files, const std::string& name = "conclave") {
    return std::string(ReadClusterTls(files, name).status().message());
  };
  const tls::CertificateFiles good = authority_.Issue(dir_.path(), "one");
  EXPECT_EQ(fault(good), "");
  EXPECT_EQ(*ReadClusterTls({}, "conclave"), nullptr);
  tls::CertificateFiles incomplete = good;
  incomplete.ca.clear();
  EXPECT_THAT(fault(incomplete), HasSubstr("tls_ca_file is not set"));
  EXPECT_THAT(fault(good, "another.name"), HasSubstr("DNS:another.name"));
  metrics::Registry registry;
  const auto started = StartClusterTls(good, "conclave", &registry);
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_NE(started->credentials, nullptr);
  EXPECT_NE(started->watch, nullptr);
}

TEST_F(TlsTest, DemandedCertificatesAllowAddressesBeyondLoopback) {
  grpc::Service* const services[] = {&service_};
  const auto credentials = Credentials(authority_.Issue(dir_.path(), "server"));
  const auto server =
      Server::Start({.name = "probe", .listen = "0.0.0.0:0", .tls = credentials}, services);
  EXPECT_TRUE(server.ok()) << server.status();
}

}  // namespace
}  // namespace conclave::rpc
