#include "shared/h2/health.h"

#include "tests/h2/probe_service.h"
#include "tests/h2/raw_client.h"

namespace conclave::h2 {
namespace {

const std::string kServing = "\1", kNotServing = "\2", kUnknown = "\3";

class HealthTest : public ServerFixture {
 protected:
  // HealthCheckRequest: field 1 is the service.
  static std::string Request(const std::string& service) {
    if (service.empty()) return "";
    return std::string("\x0a") + static_cast<char>(service.size()) + service;
  }
  std::unique_ptr<RawClient> Ask(const std::string& method, const std::string& message,
                                 bool has_message = true) {
    auto client = std::make_unique<RawClient>(server_->port());
    client->Greet();
    auto headers = RawClient::CallHeaders("");
    headers[2].second = "/grpc.health.v1.Health/" + method;
    client->Send(RawClient::HeadersFrame(1, headers));
    client->Send(RawClient::DataFrame(1, has_message ? RawClient::Message(message) : "", true));
    return client;
  }
  // The states that a call is told: HealthCheckResponse has them in field 1.
  static std::string States(RawClient& client, size_t count) {
    constexpr size_t kMessageBytes = kPrefixBytes + 2;
    std::string bytes, states;
    while (bytes.size() < count * kMessageBytes) {
      const Frame frame = client.ReadUntil(NGHTTP2_DATA);
      if (frame.type < 0) return "the connection has ended";
      bytes += frame.payload;
    }
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ(bytes.substr(i * kMessageBytes, kMessageBytes - 1),
                std::string("\0\0\0\0\2\x08", 6));
      states += bytes[(i + 1) * kMessageBytes - 1];
    }
    return states;
  }
  std::string Check(const std::string& service) {
    return States(*Ask("Check", Request(service)), 1);
  }
  std::string CheckError(const std::string& message, bool has_message = true) {
    return Ask("Check", message, has_message)->ReadTrailers(1).at("grpc-status");
  }
};

TEST_F(HealthTest, ChecksSayWhatIsServed) {
  Start({.health_names = {"conclave.v1.InferenceService"}});
  for (const char* name : {"", "conclave.v1.InferenceService"}) {
    EXPECT_EQ(Check(name), kNotServing) << name;
    server_->SetServing(true);
    EXPECT_EQ(Check(name), kServing) << name;
    server_->SetServing(false);
  }
  EXPECT_EQ(CheckError(Request("no.such.Service")), "5");
}

TEST_F(HealthTest, ChecksOfWhatIsNoRequestAreRefused) {
  Start();
  EXPECT_EQ(CheckError("\x0a\x20short"), "3");
  EXPECT_EQ(CheckError("\xff\xff\xff"), "3");
  EXPECT_EQ(CheckError("", /*has_message=*/false), "3");
  // Fields of later versions are skipped.
  EXPECT_EQ(States(*Ask("Check", "\x12\x01z"), 1), kNotServing);
}

TEST_F(HealthTest, WatchersHearEveryChange) {
  Start();
  const auto process = Ask("Watch", "");
  const auto unknown = Ask("Watch", Request("no.such.Service"));
  EXPECT_EQ(States(*process, 1), kNotServing);
  EXPECT_EQ(States(*unknown, 1), kUnknown);
  server_->SetServing(true);
  server_->SetServing(true);  // no change
  server_->SetServing(false);
  EXPECT_EQ(States(*process, 2), kServing + kNotServing);
  server_->Drain(std::chrono::milliseconds(0));
  EXPECT_EQ(process->ReadTrailers(1).at("grpc-status"), "14");
  EXPECT_EQ(unknown->ReadTrailers(1).at("grpc-status"), "14");
}

TEST_F(HealthTest, WatchersThatLeaveAreForgotten) {
  Start();
  for (int i = 0; i < 20; ++i) {
    const auto leaving = Ask("Watch", "");
    EXPECT_EQ(States(*leaving, 1), i % 2 == 0 ? kNotServing : kServing);
    server_->SetServing(i % 2 == 0);
  }
  EXPECT_TRUE(Probe::WaitFor([this] { return server_->num_connections() == 0; }));
  server_->SetServing(true);
  EXPECT_EQ(Check(""), kServing);
}

}  // namespace
}  // namespace conclave::h2
