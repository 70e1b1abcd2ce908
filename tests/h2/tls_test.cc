// The server over TLS: versions, ALPN, certificates that are renewed, handshakes that do not end.
#include <gtest/gtest.h>

#include "shared/rpc/channel.h"
#include "shared/rpc/tls_credentials.h"
#include "tests/h2/probe_service.h"
#include "tests/h2/raw_client.h"
#include "tests/support/authority.h"
#include "tests/support/tls_client.h"

namespace conclave::h2 {
namespace {

using conclave::testing::Authority;
using conclave::testing::TempDir;
using conclave::testing::TlsClient;

class TlsTest : public ServerFixture {
 protected:
  void StartTls(ServerOptions options = {}) {
    Renew();
    options.tls = context_;
    Start(std::move(options));
  }
  void Renew() {
    files_ = authority_.Issue(dir_.path(), "server");
    ASSERT_TRUE(context_->Use(*tls::ReadCertificates(files_)).ok());
  }
  rpc::Channel Channel() const {
    const auto credentials =
        rpc::TlsCredentials::Make(*tls::ReadCertificates({.ca = files_.ca}), "conclave");
    EXPECT_TRUE(credentials.ok()) << credentials.status();
    return rpc::Channel({.address = server_->address(), .tls = *credentials});
  }
  grpc::Status Call(const rpc::Channel& channel, const std::string& text) {
    const auto stub = v1::InferenceService::NewStub(channel.grpc());
    return Tokenize(text, nullptr, nullptr, stub.get());
  }
  TlsClient::Options Offering(const std::string& protocols) const {
    return {.files = {.ca = files_.ca}, .protocols = protocols};
  }

  TempDir dir_;
  Authority authority_;
  tls::CertificateFiles files_;
  std::shared_ptr<net::TlsContext> context_ =
      std::make_shared<net::TlsContext>(net::Protocol::kHttp2);
};

TEST_F(TlsTest, CallsOfEverySizeGoThrough) {
  StartTls();
  const rpc::Channel channel = Channel();
  for (const size_t size : {size_t{1}, size_t{100'000}, size_t{4 << 20}}) {
    const grpc::Status status = Call(channel, std::string(size, 'a'));
    EXPECT_TRUE(status.ok()) << status.error_message();
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    request.add_ids(static_cast<int32_t>(size));
    v1::DetokenizeResponse text;
    EXPECT_TRUE(
        v1::InferenceService::NewStub(channel.grpc())->Detokenize(&context, request, &text).ok());
    EXPECT_EQ(text.text().size(), size);
  }
}

TEST_F(TlsTest, OnlyTls13AndHttp2AreSpoken) {
  StartTls();
  TlsClient newest(server_->address(), Offering("\x02h2"));
  EXPECT_TRUE(newest.connected());
  EXPECT_EQ(newest.version(), "TLSv1.3");
  EXPECT_EQ(newest.protocol(), "h2");
  EXPECT_EQ(TlsClient(server_->address(), Offering("\x08http/1.1\x02h2")).protocol(), "h2");
  EXPECT_FALSE(TlsClient(server_->address(), Offering("\x08http/1.1")).connected());
  TlsClient::Options old = Offering("\x02h2");
  old.newest_version = TLS1_2_VERSION;
  EXPECT_FALSE(TlsClient(server_->address(), old).connected());
  // Without ALPN it is not HTTP/2.
  TlsClient nothing(server_->address(), Offering(""));
  nothing.Send(std::string(kPreface) + RawClient::FrameBytes(NGHTTP2_SETTINGS, 0, 0, ""));
  EXPECT_EQ(nothing.ReadUntil("never"), "");  // not even settings
}

TEST_F(TlsTest, PlainClientsAreClosed) {
  StartTls();
  RawClient client(server_->port());
  client.Greet();
  EXPECT_TRUE(client.Ends());
  EXPECT_TRUE(Call(Channel(), "hello").ok());
}

TEST_F(TlsTest, ARenewedCertificateIsShownToNewConnectionsAndOldOnesLiveOn) {
  StartTls();
  const rpc::Channel lasting = Channel();
  ASSERT_TRUE(Call(lasting, "hello").ok());
  const long serial = TlsClient(server_->address(), Offering("\x02h2")).serial();
  Renew();
  EXPECT_NE(TlsClient(server_->address(), Offering("\x02h2")).serial(), serial);
  EXPECT_TRUE(Call(lasting, "hello").ok());
}

TEST_F(TlsTest, UnfinishedHandshakesGiveWayToNewOnes) {
  StartTls({.num_threads = 1, .max_handshakes = 3});
  // The head of a record, and no more of it.
  const std::string begun("\x16\x03\x01\x02\x00\x01", 6);
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<RawClient>(server_->port()));
    clients.back()->Send(begun);
  }
  EXPECT_TRUE(clients[0]->Ends());
  EXPECT_TRUE(Probe::WaitFor([this] { return server_->num_connections() == 3; }));
  EXPECT_TRUE(Call(Channel(), "hello").ok());
}

}  // namespace
}  // namespace conclave::h2
