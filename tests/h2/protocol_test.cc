// The server before clients that speak frame by frame: the protocol's rules, and those who break
// them.
#include <gmock/gmock.h>

#include <chrono>

#include "tests/h2/probe_service.h"
#include "tests/h2/raw_client.h"

namespace conclave::h2 {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

std::string TokenizeBytes(const std::string& text) {
  v1::TokenizeRequest request;
  request.set_text(text);
  return request.SerializeAsString();
}

// Let all that there is be sent.
const std::string kLargeWindows =
    RawClient::FrameBytes(NGHTTP2_WINDOW_UPDATE, 0, 0, std::string("\x7f\xff\0\0", 4)) +
    RawClient::FrameBytes(NGHTTP2_SETTINGS, 0, 0, std::string("\0\x04\x7f\xff\xff\xff", 6));

class ProtocolTest : public ServerFixture {
 protected:
  std::unique_ptr<RawClient> Connect() {
    auto client = std::make_unique<RawClient>(server_->port());
    client->Greet();
    return client;
  }
  // And answers a call.
  std::unique_ptr<RawClient> ConnectServed() {
    auto client = Connect();
    client->Send(RawClient::HeadersFrame(1, RawClient::CallHeaders("Tokenize")) +
                 RawClient::DataFrame(1, RawClient::Message(TokenizeBytes("abc")), true));
    EXPECT_EQ(client->ReadTrailers(1).at("grpc-status"), "0");
    return client;
  }
  // A whole call of Tokenize, and what came of it.
  std::map<std::string, std::string> Call(const RawClient::Headers& headers,
                                          const std::string& data) {
    const auto client = Connect();
    client->Send(RawClient::HeadersFrame(1, headers) + RawClient::DataFrame(1, data, true));
    return client->ReadTrailers(1);
  }
  std::map<std::string, std::string> Call(const RawClient::Headers& more = {}) {
    return Call(RawClient::CallHeaders("Tokenize", more), RawClient::Message(TokenizeBytes("abc")));
  }
};

TEST_F(ProtocolTest, AnswersWithHeadersAndTrailers) {
  Start();
  const auto headers = Call();
  EXPECT_EQ(headers.at(":status"), "200");
  EXPECT_EQ(headers.at("content-type"), "application/grpc");
  EXPECT_EQ(headers.at("grpc-status"), "0");
  EXPECT_FALSE(headers.contains("grpc-message"));
}

TEST_F(ProtocolTest, OtherContentIsNotGrpc) {
  Start();
  for (const char* type : {"application/json", "application/grpc-web"}) {
    auto headers = RawClient::CallHeaders("Tokenize");
    headers[4].second = type;
    const auto answer = Call(headers, "");
    EXPECT_EQ(answer.at(":status"), "415");
    EXPECT_FALSE(answer.contains("grpc-status"));
  }
  auto headers = RawClient::CallHeaders("Tokenize");
  headers[0].second = "GET";
  EXPECT_EQ(Call(headers, "").at(":status"), "405");
  EXPECT_EQ(probe_.begun, 0);
}

TEST_F(ProtocolTest, SaysWhatIsWrongWithHeaders) {
  Start({.max_header_bytes = 1000});
  auto without_te = RawClient::CallHeaders("Tokenize");
  without_te.pop_back();
  EXPECT_EQ(Call(without_te, "").at("grpc-status"), "3");
  const auto timeout = Call({{"grpc-timeout", "soon"}});
  EXPECT_EQ(timeout.at("grpc-status"), "3");
  EXPECT_THAT(timeout.at("grpc-message"), HasSubstr("found \"soon\""));
  const auto encoding = Call({{"grpc-encoding", "snappy"}});
  EXPECT_EQ(encoding.at("grpc-status"), "12");
  EXPECT_THAT(encoding.at("grpc-accept-encoding"), HasSubstr("gzip"));
  const auto large = Call({{"x-large", std::string(900, 'a')}});
  EXPECT_EQ(large.at("grpc-status"), "8");
  EXPECT_THAT(large.at("grpc-message"), HasSubstr("1000"));
  EXPECT_EQ(probe_.begun, 0);
  EXPECT_EQ(Call({{"grpc-encoding", "identity"}}).at("grpc-status"), "0");
}

TEST_F(ProtocolTest, ARequestThatEndsWithinAMessageFails) {
  Start();
  const std::string message = RawClient::Message(TokenizeBytes("abc"));
  const auto cut = Call(RawClient::CallHeaders("Tokenize"), message.substr(0, 4));
  EXPECT_EQ(cut.at("grpc-status"), "13");
  EXPECT_EQ(probe_.cancelled, 1);
  const auto compressed = Call(RawClient::CallHeaders("Tokenize"),
                               RawClient::Message(TokenizeBytes("abc"), /*compressed=*/1));
  EXPECT_EQ(compressed.at("grpc-status"), "13");
}

TEST_F(ProtocolTest, TheServerItselfEndsACallAtItsDeadline) {
  Start();
  const auto client = Connect();
  client->Send(
      RawClient::HeadersFrame(1, RawClient::CallHeaders("Tokenize", {{"grpc-timeout", "50m"}})) +
      RawClient::DataFrame(1, RawClient::Message(TokenizeBytes("hold")), true));
  EXPECT_EQ(client->ReadTrailers(1).at("grpc-status"), "4");
  EXPECT_EQ(probe_.cancelled, 1);
}

TEST_F(ProtocolTest, ARequestThatIsAnsweredEarlyIsNotReadOn) {
  Start();
  const auto client = Connect();
  client->Send(RawClient::HeadersFrame(1, RawClient::CallHeaders("Nothing")));
  EXPECT_EQ(client->ReadTrailers(1).at("grpc-status"), "12");
  const Frame reset = client->ReadUntil(NGHTTP2_RST_STREAM);
  EXPECT_EQ(reset.stream, 1);
  EXPECT_EQ(reset.payload, std::string(4, '\0'));  // NO_ERROR
}

TEST_F(ProtocolTest, AnswersWaitForTheClientsWindow) {
  Start();
  const auto client = Connect();
  // An initial window of 0.
  client->Send(RawClient::FrameBytes(NGHTTP2_SETTINGS, 0, 0, std::string("\0\x04\0\0\0\0", 6)));
  client->Send(RawClient::HeadersFrame(1, RawClient::CallHeaders("Tokenize")) +
               RawClient::DataFrame(1, RawClient::Message(TokenizeBytes("abc")), true) +
               RawClient::FrameBytes(NGHTTP2_PING, 0, 0, "12345678"));
  for (Frame frame = client->Read(); frame.type != NGHTTP2_PING; frame = client->Read()) {
    ASSERT_GE(frame.type, 0);
    EXPECT_NE(frame.type, NGHTTP2_DATA);
  }
  client->Send(RawClient::FrameBytes(NGHTTP2_WINDOW_UPDATE, 0, 1, std::string("\0\0\0\x64", 4)));
  EXPECT_EQ(client->ReadTrailers(1).at("grpc-status"), "0");
}

TEST_F(ProtocolTest, AnswersThatAreNotTakenGiveWay) {
  Start({.num_threads = 1, .max_untaken_bytes = 100'000});
  const auto client = Connect();
  client->Send(RawClient::FrameBytes(NGHTTP2_SETTINGS, 0, 0, std::string("\0\x04\0\0\0\0", 6)));
  for (int32_t id = 1; id <= 99; id += 2) {
    client->Send(RawClient::HeadersFrame(id, RawClient::CallHeaders("Tokenize")) +
                 RawClient::DataFrame(id, RawClient::Message(TokenizeBytes("abc")), true));
  }
  const Frame reset = client->ReadUntil(NGHTTP2_RST_STREAM);
  EXPECT_EQ(reset.stream, 1);
  EXPECT_TRUE(Tokenize("hello").ok());
}

TEST_F(ProtocolTest, AnswersOfCallsThatGoOnGiveWayToo) {
  Start({.num_threads = 1, .max_untaken_bytes = 100'000});
  const auto client = Connect();
  client->Send(RawClient::FrameBytes(NGHTTP2_SETTINGS, 0, 0, std::string("\0\x04\0\0\0\0", 6)) +
               RawClient::HeadersFrame(1, RawClient::CallHeaders("Session")));
  v1::SessionRequest request;
  request.mutable_cancel()->set_request_id(std::string(5000, 'x'));
  const std::string message = RawClient::Message(request.SerializeAsString());
  for (int i = 0; i < 40; ++i) client->Send(RawClient::DataFrame(1, message));
  EXPECT_EQ(client->ReadUntil(NGHTTP2_RST_STREAM).stream, 1);
  EXPECT_TRUE(Probe::WaitFor([this] { return probe_.cancelled == 1; }));
  EXPECT_TRUE(Tokenize("hello").ok());
}

TEST_F(ProtocolTest, AClientThatReadsNothingLosesItsCallsBeforeTheyHoldMuch) {
  Start({.num_threads = 1, .max_untaken_bytes = 100'000});
  const auto client = Connect();
  v1::GenerateRequest request;
  request.mutable_sampling()->set_max_tokens(200);
  request.mutable_sampling()->set_seed(10'000);
  client->Send(kLargeWindows);
  std::string messages;
  for (int32_t id = 1; id <= 21; id += 2) {  // more than the system's buffers take
    client->Send(RawClient::HeadersFrame(id, RawClient::CallHeaders("Generate")));
    messages += RawClient::DataFrame(id, RawClient::Message(request.SerializeAsString()), true);
  }
  // All begin before the first answer, as the connection may be closed before the last one.
  EXPECT_TRUE(Probe::WaitFor([this] { return probe_.begun == 11; }));
  client->Send(messages);
  // Long before the write timeout; some by a reset, all of them once even that cannot be sent.
  EXPECT_TRUE(Probe::WaitFor([this] { return probe_.destroyed == 11; }));
}

TEST_F(ProtocolTest, NothingIsTakenAfterACallsEnd) {
  Start({.num_threads = 1, .max_receive_bytes = 64 << 10, .max_arriving_bytes = 64 << 10});
  const auto good = Connect();
  const std::string text = RawClient::Message(TokenizeBytes(std::string(1000, 'a')));
  good->Send(RawClient::HeadersFrame(1, RawClient::CallHeaders("Tokenize")) +
             RawClient::DataFrame(1, text.substr(0, 500)));
  EXPECT_TRUE(Probe::WaitFor([this] { return probe_.begun == 1; }));
  // A call that has its answer, which waits for a window, goes on sending.
  const auto evil = Connect();
  evil->Send(RawClient::FrameBytes(NGHTTP2_SETTINGS, 0, 0, std::string("\0\x04\0\0\0\0", 6)) +
             RawClient::HeadersFrame(1, RawClient::CallHeaders("Tokenize")) +
             RawClient::DataFrame(1, RawClient::Message(TokenizeBytes("abc"))));
  EXPECT_EQ(evil->ReadUntil(NGHTTP2_HEADERS).stream, 1);
  evil->Send(RawClient::DataFrame(1, std::string("\0\xff\xff\xff\xff", 5)));
  for (int i = 0; i < 20; ++i) evil->Send(RawClient::DataFrame(1, std::string(16'000, 'x')));
  evil->Send(RawClient::FrameBytes(NGHTTP2_PING, 0, 0, "12345678"));
  EXPECT_EQ(evil->ReadUntil(NGHTTP2_PING).payload, "12345678");  // all was read
  good->Send(RawClient::DataFrame(1, text.substr(500), true));
  EXPECT_EQ(good->ReadTrailers(1).at("grpc-status"), "0");
}

TEST_F(ProtocolTest, CallsThatWaitForTheirClientsAloneGiveWay) {
  Start({.num_threads = 1, .max_receive_bytes = 8 << 10, .max_arriving_bytes = 100'000});
  const auto client = Connect();
  auto headers = RawClient::CallHeaders("");
  headers[2].second = "/grpc.health.v1.Health/Watch";
  for (int32_t id = 1; id <= 199; id += 2) {
    client->Send(RawClient::HeadersFrame(id, headers) +
                 RawClient::DataFrame(id, RawClient::Message(""), true));
  }
  EXPECT_EQ(client->ReadTrailers(1).at("grpc-status"), "8");
  EXPECT_TRUE(Tokenize("hello").ok());
}

TEST_F(ProtocolTest, WhatIsNoHttp2IsClosed) {
  Start({.handshake_timeout = milliseconds(200)});
  for (const std::string& bytes :
       {std::string("GET / HTTP/1.1\r\n\r\n"), std::string(10'000, '\xff'), std::string(),
        std::string("PRI * HTTP/2.0\r\n"), std::string(kPreface) + "\xff\xff\xff",
        std::string(kPreface) + RawClient::FrameBytes(NGHTTP2_DATA, 0, 1, "x"),
        std::string(kPreface) + RawClient::FrameBytes(99, 0, 0, "")}) {
    RawClient client(server_->port());
    client.Send(bytes);
    EXPECT_TRUE(client.Ends()) << bytes.substr(0, 20);
  }
  EXPECT_TRUE(Tokenize("hello").ok());
}

TEST_F(ProtocolTest, WhoDoesNotAnswerPingsIsClosedAndWhoDoesIsNot) {
  Start({.ping_interval = milliseconds(100), .ping_timeout = milliseconds(2000)});
  const auto silent = Connect();
  silent->Send(RawClient::HeadersFrame(1, RawClient::CallHeaders("Session")));
  const auto lively = Connect();
  for (int i = 0; i < 5; ++i) {
    const Frame ping = lively->ReadUntil(NGHTTP2_PING);
    ASSERT_EQ(ping.type, NGHTTP2_PING);
    lively->Send(RawClient::FrameBytes(NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, ping.payload));
  }
  EXPECT_TRUE(silent->Ends());
  EXPECT_TRUE(Probe::WaitFor([this] { return probe_.cancelled == 1; }));
}

TEST_F(ProtocolTest, WhoResetsTooManyCallsIsToldToBeCalm) {
  Start();
  const auto client = Connect();
  std::string bytes;
  for (int32_t id = 1; id < 20'000; id += 2) {
    bytes +=
        RawClient::HeadersFrame(id, RawClient::CallHeaders("Session")) + RawClient::ResetFrame(id);
  }
  client->Send(bytes);
  EXPECT_EQ(client->GoAwayCode(), NGHTTP2_ENHANCE_YOUR_CALM);
  EXPECT_EQ(probe_.begun, probe_.cancelled);
  EXPECT_LT(probe_.begun, 5000);
  EXPECT_TRUE(Tokenize("hello").ok());
}

TEST_F(ProtocolTest, FloodsOfIdleFramesEndTheConnection) {
  Start();
  const std::string settings = RawClient::FrameBytes(NGHTTP2_SETTINGS, 0, 0, "");
  const std::string ping = RawClient::FrameBytes(NGHTTP2_PING, 0, 0, "12345678");
  const std::string empty = RawClient::DataFrame(1, "");
  for (const std::string& frame : {settings, ping, empty}) {
    const auto client = Connect();
    client->Send(RawClient::HeadersFrame(1, RawClient::CallHeaders("Session")));
    std::string bytes;
    for (int i = 0; i < 5000; ++i) bytes += frame;
    client->Send(bytes);
    EXPECT_EQ(client->GoAwayCode(), NGHTTP2_ENHANCE_YOUR_CALM) << static_cast<int>(frame[3]);
  }
  EXPECT_TRUE(Tokenize("hello").ok());
}

TEST_F(ProtocolTest, EndlessHeadersEndTheConnection) {
  Start();
  const auto client = Connect();
  std::string bytes = RawClient::FrameBytes(NGHTTP2_HEADERS, 0, 1, "");
  for (int i = 0; i < 100; ++i) {
    bytes += RawClient::FrameBytes(NGHTTP2_CONTINUATION, 0, 1,
                                   RawClient::HeaderBlock({{"x-more", std::string(1000, 'a')}}));
  }
  client->Send(bytes);
  EXPECT_TRUE(client->Ends());
  EXPECT_EQ(probe_.begun, 0);
}

TEST_F(ProtocolTest, AStrangersLargeMessageIsRefusedBeforeItArrives) {
  Start({.check_sender = [](std::string_view authorization) {
    return authorization == "Bearer good" ? absl::OkStatus()
                                          : absl::UnauthenticatedError("no such key");
  }});
  const auto client = Connect();
  const std::string begun = std::string("\0\0\x10\0\0", 5) + std::string(1000, 'x');
  client->Send(RawClient::HeadersFrame(1, RawClient::CallHeaders("Tokenize")) +
               RawClient::DataFrame(1, begun));
  EXPECT_EQ(client->ReadTrailers(1).at("grpc-status"), "16");
  EXPECT_EQ(probe_.cancelled, 1);
  const std::string large = RawClient::Message(TokenizeBytes(std::string(15'000, 'a')));
  client->Send(RawClient::HeadersFrame(
                   3, RawClient::CallHeaders("Tokenize", {{"authorization", "Bearer good"}})) +
               RawClient::DataFrame(3, large.substr(0, 9000)) +
               RawClient::DataFrame(3, large.substr(9000), true));
  EXPECT_EQ(client->ReadTrailers(3).at("grpc-status"), "0");
}

TEST_F(ProtocolTest, TheMessageThatTakesLongestGivesWay) {
  Start({.num_threads = 1, .max_receive_bytes = 100'000, .max_arriving_bytes = 100'000});
  const auto client = Connect();
  const std::string begun = std::string("\0\0\0\x20\0", 5) + std::string(5000, 'x');  // of 8 KiB
  for (int32_t id = 1; id <= 41; id += 2) {
    client->Send(RawClient::HeadersFrame(id, RawClient::CallHeaders("Tokenize")) +
                 RawClient::DataFrame(id, begun));
  }
  const auto refused = client->ReadTrailers(1);
  EXPECT_EQ(refused.at("grpc-status"), "8");
  EXPECT_THAT(refused.at("grpc-message"), HasSubstr("took longest"));
  EXPECT_TRUE(Tokenize("hello").ok());
}

TEST_F(ProtocolTest, IdleCallsOfStrangersGiveWay) {
  Start({.num_threads = 1, .max_receive_bytes = 100'000, .max_arriving_bytes = 100'000});
  const auto client = Connect();
  for (int32_t id = 1; id <= 201; id += 2) {
    client->Send(RawClient::HeadersFrame(id, RawClient::CallHeaders("Session")));
  }
  EXPECT_EQ(client->ReadTrailers(1).at("grpc-status"), "8");
  EXPECT_GT(probe_.cancelled, 0);
}

TEST_F(ProtocolTest, HeadersThatDoNotEndGiveWay) {
  Start({.num_threads = 1, .max_receive_bytes = 100'000, .max_arriving_bytes = 100'000});
  const std::string begun = RawClient::FrameBytes(
      NGHTTP2_HEADERS, 0, 1, RawClient::HeaderBlock({{"x-more", std::string(8000, 'a')}}));
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 10; ++i) {
    clients.push_back(Connect());
    clients.back()->Send(begun);
  }
  EXPECT_EQ(clients[0]->GoAwayCode(), NGHTTP2_ENHANCE_YOUR_CALM);
  EXPECT_TRUE(Tokenize("hello").ok());
}

TEST_F(ProtocolTest, AMessageThatDoesNotArriveInTimeFails) {
  Start({.message_timeout = milliseconds(50)});
  const auto client = Connect();
  client->Send(RawClient::HeadersFrame(1, RawClient::CallHeaders("Tokenize")) +
               RawClient::DataFrame(1, RawClient::Message(TokenizeBytes("abc")).substr(0, 6)));
  EXPECT_EQ(client->ReadTrailers(1).at("grpc-status"), "4");
}

TEST_F(ProtocolTest, TheConnectionThatIsIdleForLongestGivesWay) {
  Start({.num_threads = 1, .max_connections = 3});
  const auto busy = ConnectServed();
  busy->Send(RawClient::HeadersFrame(3, RawClient::CallHeaders("Session")));
  EXPECT_TRUE(Probe::WaitFor([this] { return probe_.begun == 2; }));
  const auto first = ConnectServed();
  const auto second = ConnectServed();
  const auto third = ConnectServed();
  EXPECT_TRUE(first->Ends());
  busy->Send(RawClient::DataFrame(3, "", true));
  EXPECT_EQ(busy->ReadTrailers(3).at("grpc-status"), "0");
  EXPECT_EQ(server_->num_connections(), 3);
}

TEST_F(ProtocolTest, OfManyNewcomersTheOldestGivesWay) {
  Start({.num_threads = 1, .max_connections = 3});
  const auto served = ConnectServed();
  const auto silent = Connect();
  EXPECT_GE(silent->ReadUntil(NGHTTP2_SETTINGS).type, 0);
  const auto with_call = Connect();
  with_call->Send(RawClient::HeadersFrame(1, RawClient::CallHeaders("Session")));
  EXPECT_TRUE(Probe::WaitFor([this] { return probe_.begun == 2; }));
  const auto fourth = ConnectServed();
  EXPECT_TRUE(silent->Ends());
  served->Send(RawClient::HeadersFrame(3, RawClient::CallHeaders("Tokenize")) +
               RawClient::DataFrame(3, RawClient::Message(TokenizeBytes("abc")), true));
  EXPECT_EQ(served->ReadTrailers(3).at("grpc-status"), "0");
  with_call->Send(RawClient::DataFrame(1, "", true));
  EXPECT_EQ(with_call->ReadTrailers(1).at("grpc-status"), "0");
}

TEST_F(ProtocolTest, HealthChecksMakeNobodyKnown) {
  Start({.num_threads = 1, .max_connections = 3});
  const auto check_health = [](RawClient& client) {
    auto headers = RawClient::CallHeaders("Tokenize");
    for (auto& [name, value] : headers) {
      if (name == ":path") value = "/grpc.health.v1.Health/Check";
    }
    client.Send(RawClient::HeadersFrame(1, headers) +
                RawClient::DataFrame(1, RawClient::Message(""), true));
    EXPECT_EQ(client.ReadTrailers(1).at("grpc-status"), "0");
  };
  const auto served = ConnectServed();
  const auto one = Connect();
  check_health(*one);
  const auto other = Connect();
  check_health(*other);
  const auto fourth = ConnectServed();
  EXPECT_TRUE(one->Ends());
  EXPECT_EQ(server_->num_connections(), 3);
}

// Whatever comes first and however much: a newcomer is read in pieces, but read.
TEST_F(ProtocolTest, NewcomersMaySendMuch) {
  Start({.num_threads = 1, .newcomer_share = 0.01});
  const auto client = Connect();
  client->Send(RawClient::HeadersFrame(1, RawClient::CallHeaders("Tokenize")));
  const std::string message = RawClient::Message(TokenizeBytes(std::string(60'000, 'a')));
  for (size_t at = 0; at < message.size(); at += 10'000) {
    client->Send(
        RawClient::DataFrame(1, message.substr(at, 10'000), at + 10'000 >= message.size()));
  }
  EXPECT_EQ(client->ReadTrailers(1).at("grpc-status"), "0");
}

// Who is served is served also while newcomers have sent more than their share of the time allows.
TEST_F(ProtocolTest, NewcomersDoNotHoldUpWhoIsServed) {
  Start({.num_threads = 1, .newcomer_share = 0.001});
  const auto served = ConnectServed();
  std::string calls;  // that are reset at once
  for (int32_t id = 1; id < 1000; id += 2) {
    calls += RawClient::HeadersFrame(id, RawClient::CallHeaders("Session")) +
             RawClient::FrameBytes(NGHTTP2_RST_STREAM, 0, id, std::string("\0\0\0\x08", 4));
  }
  std::vector<std::unique_ptr<RawClient>> newcomers;
  for (int i = 0; i < 40; ++i) {
    newcomers.push_back(Connect());
    newcomers.back()->Send(calls);
  }
  const int all = static_cast<int>(newcomers.size()) * 500;
  for (int32_t id = 3; id < 43; id += 2) {
    served->Send(RawClient::HeadersFrame(id, RawClient::CallHeaders("Tokenize")) +
                 RawClient::DataFrame(id, RawClient::Message(TokenizeBytes("abc")), true));
    EXPECT_EQ(served->ReadTrailers(id).at("grpc-status"), "0");
  }
  EXPECT_LT(probe_.begun, all / 2);  // the rest is still unread
  // Those that leave are not read any more, and their connections end.
  newcomers.clear();
  EXPECT_TRUE(Probe::WaitFor([this] { return server_->num_connections() <= 1; }));
  EXPECT_LT(probe_.begun, all);
}

TEST_F(ProtocolTest, ManyConnectionsAtOnceKeepToTheLimit) {
  Start({.num_threads = 1, .max_connections = 3});
  const auto first = ConnectServed();
  first->Send(RawClient::HeadersFrame(3, RawClient::CallHeaders("Session")));
  EXPECT_TRUE(Probe::WaitFor([this] { return probe_.begun == 2; }));
  first->Send(RawClient::HeadersFrame(5, RawClient::CallHeaders("Tokenize")) +
              RawClient::DataFrame(5, RawClient::Message(TokenizeBytes("block")), true));
  std::vector<std::unique_ptr<RawClient>> clients;  // that are taken in one go afterwards
  for (int i = 0; i < 50; ++i) clients.push_back(std::make_unique<RawClient>(server_->port()));
  EXPECT_EQ(first->ReadTrailers(5).at("grpc-status"), "0");
  clients.back()->Greet();
  EXPECT_GE(clients.back()->ReadUntil(NGHTTP2_SETTINGS).type, 0);
  EXPECT_TRUE(Probe::WaitFor([this] { return server_->num_connections() <= 3; }));
}

TEST_F(ProtocolTest, WhoDoesNotReadIsNotReadFromForever) {
  Start({.write_timeout = milliseconds(300)});
  const auto client = Connect();
  v1::GenerateRequest request;
  request.mutable_sampling()->set_max_tokens(300);
  request.mutable_sampling()->set_seed(10'000);
  client->Send(kLargeWindows);
  for (int32_t id = 1; id <= 21; id += 2) {
    client->Send(RawClient::HeadersFrame(id, RawClient::CallHeaders("Generate")) +
                 RawClient::DataFrame(id, RawClient::Message(request.SerializeAsString()), true));
  }
  // How many begin before the connection ends is a matter of speed.
  EXPECT_TRUE(Probe::WaitFor([this] { return probe_.begun > 0; }));
  EXPECT_TRUE(Probe::WaitFor([this] { return server_->num_connections() == 0; }));
}

}  // namespace
}  // namespace conclave::h2
