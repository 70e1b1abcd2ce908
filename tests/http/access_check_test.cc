#include "shared/http/access_check.h"

#include <gtest/gtest.h>

namespace conclave::http {
namespace {

absl::Status Check(std::optional<std::string_view> host,
                   std::optional<std::string_view> origin = {},
                   std::string_view local = "127.0.0.1", bool tls = false) {
  return CheckAccess({.host = host, .origin = origin, .tls = tls, .local_address = local},
                     {.allowed_hosts = {"conclave.example"}});
}

TEST(AccessCheckTest, AcceptsNamesOfThisServer) {
  for (const char* host :
       {"localhost", "localhost:8000", "LOCALHOST", "a.localhost:1", "127.0.0.1:8000", "127.9.9.9",
        "[::1]:8000", "[::1]", "conclave.example", "Conclave.Example:80"}) {
    EXPECT_TRUE(Check(host).ok()) << host;
  }
  EXPECT_TRUE(Check(std::nullopt).ok());
}

TEST(AccessCheckTest, RefusesForeignHosts) {
  for (const char* host :
       {"evil.example", "evil.example:8000", "localhost.evil.example", "128.0.0.1", "10.0.0.5:8000",
        "[2001:db8::1]:80", "127.0.0.1.nip.example", "notlocalhost"}) {
    EXPECT_TRUE(absl::IsPermissionDenied(Check(host))) << host << ": " << Check(host);
  }
}

TEST(AccessCheckTest, AnAsteriskStandsForOneLabel) {
  const auto check = [](std::string_view host) {
    return CheckAccess({.host = host, .origin = {}, .local_address = "127.0.0.1"},
                       {.allowed_hosts = {"*.llm.example", "other.example"}});
  };
  for (const char* host : {"a.llm.example", "A-1.LLM.example:443", "other.example"}) {
    EXPECT_TRUE(check(host).ok()) << host;
  }
  for (const char* host : {"llm.example", ".llm.example", "a.b.llm.example", "a.llm.example.evil",
                           "allm.example", "a.other.example", "*.other.example"}) {
    EXPECT_FALSE(check(host).ok()) << host;
  }
}

TEST(AccessCheckTest, AcceptsTheAddressTheClientConnectedTo) {
  EXPECT_TRUE(Check("10.0.0.5:8000", std::nullopt, "10.0.0.5").ok());
  EXPECT_TRUE(Check("[2001:db8:0::1]:80", std::nullopt, "2001:db8::1").ok());
  EXPECT_FALSE(Check("10.0.0.6:8000", std::nullopt, "10.0.0.5").ok());
}

TEST(AccessCheckTest, RefusesMalformedHosts) {
  for (const char* host :
       {"", ":80", "local host", "localhost:80x", "localhost:1234567", "[::1", "a/b", "a@b"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Check(host))) << host;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(Check(std::string(300, 'a'))));
}

TEST(AccessCheckTest, RefusesForeignOrigins) {
  EXPECT_TRUE(Check("localhost:8000", "http://localhost:8000").ok());
  for (const char* origin :
       {"http://evil.example", "null", "", "http://localhost:3000", "https://localhost:8000"}) {
    EXPECT_TRUE(absl::IsPermissionDenied(Check("localhost:8000", origin))) << origin;
  }
  EXPECT_TRUE(absl::IsPermissionDenied(Check(std::nullopt, "http://localhost")));
}

TEST(AccessCheckTest, OverTlsItsOwnPagesAreHttps) {
  const auto check = [](const char* origin) {
    return Check("localhost:8000", origin, "127.0.0.1", /*tls=*/true);
  };
  EXPECT_TRUE(check("https://localhost:8000").ok());
  EXPECT_TRUE(absl::IsPermissionDenied(check("http://localhost:8000")));
  EXPECT_TRUE(absl::IsPermissionDenied(check("https://evil.example")));
}

TEST(AccessCheckTest, NamesWhatItFound) {
  EXPECT_NE(Check("evil.example").message().find("evil.example"), absl::string_view::npos);
  EXPECT_NE(Check("localhost", "http://page.example").message().find("page.example"),
            absl::string_view::npos);
}

}  // namespace
}  // namespace conclave::http
