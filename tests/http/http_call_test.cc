#include "shared/http/http_call.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <ctime>

#include "shared/base/address.h"
#include "shared/net/tls_context.h"
#include "tests/http/server_fixture.h"
#include "tests/support/authority.h"

namespace conclave::http {
namespace {

using testing::Authority;
using ::testing::HasSubstr;

class HttpCallTest : public ServerTest {
 protected:
  HttpCall CallOf(const std::string& path) const {
    HttpCall call{.host = "127.0.0.1",
                  .port = std::to_string(ParseAddress(server_->address())->port),
                  .tls = false,
                  .path = path};
    call.timeout = std::chrono::seconds(10);
    return call;
  }
  // A server that shows a certificate for these names.
  HttpCall StartTls(std::vector<std::string> names) {
    const auto certificates =
        tls::ReadCertificates(authority_.Issue(dir_.path(), "server", {.names = std::move(names)}));
    EXPECT_TRUE(certificates.ok()) << certificates.status();
    ServerOptions options;
    options.tls = std::make_shared<net::TlsContext>(net::Protocol::kHttp1);
    EXPECT_TRUE(options.tls->Use(*certificates).ok());
    Start(std::move(options));
    HttpCall call = CallOf("/echo");
    call.tls = true;
    call.authorities_pem = authority_.pem();
    call.method = "POST";
    call.body = "hello";
    return call;
  }

  testing::TempDir dir_;
  Authority authority_;
};

TEST_F(HttpCallTest, CallsWithAndWithoutTls) {
  Start();
  const auto plain = CallHttp(CallOf("/path/a?b"));
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->body, "/path/a|b");
  EXPECT_EQ(plain->certificate_expires_unix_s, 0);
  EXPECT_EQ(CallHttp(CallOf("/nowhere"))->status, 404);

  const auto encrypted = CallHttp(StartTls({"IP:127.0.0.1"}));
  ASSERT_TRUE(encrypted.ok()) << encrypted.status();
  EXPECT_EQ(encrypted->status, 200);
  EXPECT_EQ(encrypted->body, "hello");
  EXPECT_NEAR(encrypted->certificate_expires_unix_s, std::time(nullptr) + 3600, 60);
}

TEST_F(HttpCallTest, TrustsTheNameAndTheAuthorityAlone) {
  const auto other_name = CallHttp(StartTls({"DNS:elsewhere"}));
  EXPECT_TRUE(absl::IsFailedPrecondition(other_name.status())) << other_name.status();
  EXPECT_THAT(std::string(other_name.status().message()), HasSubstr("certificate verify failed"));
  HttpCall call = StartTls({"IP:127.0.0.1"});
  call.authorities_pem = Authority("another").pem();
  EXPECT_TRUE(absl::IsFailedPrecondition(CallHttp(call).status()));
  call.authorities_pem = "rubbish";
  EXPECT_TRUE(absl::IsInvalidArgument(CallHttp(call).status()));
}

TEST_F(HttpCallTest, TlsOnOneSideAloneIsSaid) {
  HttpCall call = StartTls({"IP:127.0.0.1"});
  call.tls = false;
  EXPECT_TRUE(absl::IsUnavailable(CallHttp(call).status())) << CallHttp(call).status();
  Start();
  call = CallOf("/echo");
  call.tls = true;
  const auto answer = CallHttp(call);
  EXPECT_TRUE(absl::IsFailedPrecondition(answer.status())) << answer.status();
}

TEST_F(HttpCallTest, NoAnswerEndsWithTheTimeout) {
  Start();
  HttpCall call = CallOf("/held");
  call.timeout = std::chrono::milliseconds(100);
  const auto late = CallHttp(call);
  EXPECT_TRUE(absl::IsUnavailable(late.status()));
  EXPECT_THAT(std::string(late.status().message()), HasSubstr("/held"));
  server_.reset();
  const auto refused = CallHttp(call);
  EXPECT_TRUE(absl::IsUnavailable(refused.status()));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("connect: Connection refused"));
}

}  // namespace
}  // namespace conclave::http
