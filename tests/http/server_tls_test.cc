// The HTTP server over TLS: the same answers, and who is let in.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <vector>

#include "shared/net/tls_context.h"
#include "tests/http/server_fixture.h"
#include "tests/support/authority.h"
#include "tests/support/tls_client.h"

namespace conclave::http {
namespace {

using testing::Authority;
using testing::TlsClient;

class ServerTlsTest : public ServerTest {
 protected:
  void StartTls(ServerOptions options = {}) {
    Renew("one");
    options.tls = context_;
    Start(std::move(options));
  }
  void Renew(const std::string& stem) {
    files_ = authority_.Issue(dir_.path(), stem);
    const auto certificates = tls::ReadCertificates(files_);
    ASSERT_TRUE(certificates.ok()) << certificates.status();
    const absl::Status used = context_->Use(*certificates);
    ASSERT_TRUE(used.ok()) << used;
  }
  // Shows no certificate of its own.
  TlsClient::Options Trusting() const { return {.files = {.ca = files_.ca}}; }

  testing::TempDir dir_;
  Authority authority_;
  tls::CertificateFiles files_;
  std::shared_ptr<net::TlsContext> context_ =
      std::make_shared<net::TlsContext>(net::Protocol::kHttp1);
};

TEST_F(ServerTlsTest, AnswersOverTls13) {
  StartTls();
  TlsClient client(server_->address(), Trusting());
  ASSERT_TRUE(client.connected());
  EXPECT_EQ(client.version(), "TLSv1.3");
  for (const char* body : {"first", "second"}) {
    client.Send(Post("/echo", body));
    EXPECT_NE(client.ReadUntil(body).find("200 OK"), std::string::npos);
  }
}

TEST_F(ServerTlsTest, ItsOwnPagesMayAsk) {
  StartTls();
  const auto ask = [this](const std::string& origin) {
    TlsClient client(server_->address(), Trusting());
    client.Send("GET /path/x HTTP/1.1\r\nHost: localhost\r\nOrigin: " + origin + "\r\n\r\n");
    return client.ReadUntil("\r\n\r\n");
  };
  EXPECT_NE(ask("https://localhost").find("200 OK"), std::string::npos);
  EXPECT_NE(ask("https://evil.example").find(" 403 "), std::string::npos);
}

TEST_F(ServerTlsTest, LargeAnswersAndPipelinedRequestsArriveWhole) {
  StartTls();
  TlsClient client(server_->address(), Trusting());
  const std::string large(1 << 20, 'x');
  client.Send(Post("/echo", large + "!") + Post("/echo", "end"));
  EXPECT_GT(client.ReadUntil("end").size(), large.size());
}

TEST_F(ServerTlsTest, OlderVersionsAreRefused) {
  StartTls();
  TlsClient::Options options = Trusting();
  options.newest_version = TLS1_2_VERSION;
  EXPECT_FALSE(TlsClient(server_->address(), options).connected());
  EXPECT_TRUE(TlsClient(server_->address(), Trusting()).connected());
}

TEST_F(ServerTlsTest, SpeaksHttp1AndSaysSo) {
  StartTls();
  TlsClient::Options options = Trusting();
  options.protocols = "\x02h2\x08http/1.1";
  EXPECT_EQ(TlsClient(server_->address(), options).protocol(), "http/1.1");
  options.protocols = "\x02h2";
  EXPECT_FALSE(TlsClient(server_->address(), options).connected());
}

TEST_F(ServerTlsTest, ARenewedCertificateIsShownToNewConnectionsAndTheOldOnesGoOn) {
  StartTls();
  TlsClient old(server_->address(), Trusting());
  const long serial = old.serial();
  Renew("two");
  EXPECT_NE(TlsClient(server_->address(), Trusting()).serial(), serial);
  old.Send(Post("/echo", "still here"));
  EXPECT_NE(old.ReadUntil("still here").find("200 OK"), std::string::npos);
}

TEST_F(ServerTlsTest, PlainTextIsRefusedAndHarmsNobody) {
  StartTls();
  RawClient plain(server_->address());
  plain.Send(Post("/echo", "in the clear"));
  EXPECT_EQ(plain.ReadResponse().status, 0);
  TlsClient client(server_->address(), Trusting());
  client.Send(Post("/echo", "alive"));
  EXPECT_NE(client.ReadUntil("alive").find("200 OK"), std::string::npos);
}

TEST_F(ServerTlsTest, AHandshakeThatTakesLongGivesWayToOthers) {
  ServerOptions options;
  options.max_handshakes = 2;
  StartTls(std::move(options));
  RawClient silent(server_->address());  // takes no place
  std::vector<std::unique_ptr<RawClient>> halves;
  for (int i = 0; i < 3; ++i) {
    halves.push_back(std::make_unique<RawClient>(server_->address()));
    halves.back()->Send(std::string("\x16\x03\x01\x02\x00\x01", 6));
  }
  EXPECT_TRUE(halves[0]->WaitForClose());
  for (int i = 0; i < 3; ++i) {
    TlsClient client(server_->address(), Trusting());
    ASSERT_TRUE(client.connected());
    client.Send(Post("/echo", "in"));
    EXPECT_NE(client.ReadUntil("in").find("200 OK"), std::string::npos);
  }
}

TEST_F(ServerTlsTest, ASilentHandshakeEnds) {
  StartTls({.header_timeout = std::chrono::milliseconds(50)});
  RawClient silent(server_->address());
  EXPECT_EQ(silent.ReadResponse().status, 0);  // the connection ended; no answer in plain text
}

TEST_F(ServerTlsTest, TheEndIsSaid) {
  StartTls();
  TlsClient client(server_->address(), Trusting());
  client.Send("GET /path/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  EXPECT_NE(client.ReadUntil("never sent").find("/path/x|"), std::string::npos);
  EXPECT_TRUE(client.EndedInOrder());
}

TEST_F(ServerTlsTest, AStreamWhoseClientGoesIsNoticed) {
  StartTls();
  auto client = std::make_unique<TlsClient>(server_->address(), Trusting());
  client->Send(Get("/held"));
  const std::shared_ptr<Exchange> held = Held();
  ASSERT_NE(held, nullptr);
  // Shared: the server's thread may still be at the queue when this test is over.
  const auto gone = std::make_shared<BoundedQueue<bool>>(1);
  held->OnClientGone([gone] { gone->TryPush(true); });
  client.reset();
  EXPECT_TRUE(gone->PopFor(std::chrono::seconds(10)).has_value());
}

}  // namespace
}  // namespace conclave::http
