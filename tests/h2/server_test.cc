// The server before gRPC's own client: calls of every shape, limits, ends.
#include "shared/h2/server.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>

#include <future>

#include "shared/rpc/channel.h"
#include "tests/h2/probe_service.h"
#include "tests/h2/raw_client.h"

namespace conclave::h2 {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

class ServerTest : public ServerFixture {
 protected:
  static absl::Status StartError(const std::string& listen, bool guarded = false) {
    return Server::Start({.name = "probe", .listen = listen, .guarded = guarded}, {}).status();
  }
  // A session that has had an answer.
  struct Session {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionEvent>> stream;
  };
  std::unique_ptr<Session> Open(v1::InferenceService::Stub& stub) {
    auto session = std::make_unique<Session>();
    session->stream = stub.Session(&session->context);
    EXPECT_TRUE(Ask(*session, "first"));
    return session;
  }
  static bool Ask(Session& session, const std::string& id) {
    v1::SessionRequest request;
    request.mutable_cancel()->set_request_id(id);
    v1::SessionEvent event;
    return session.stream->Write(request) && session.stream->Read(&event) &&
           event.request_id() == id;
  }
};

TEST_F(ServerTest, TakesAFreePortAndSaysWhich) {
  Start();
  EXPECT_GT(server_->port(), 0);
  EXPECT_EQ(server_->address(), "127.0.0.1:" + std::to_string(server_->port()));
  v1::TokenizeResponse response;
  const grpc::Status status = Tokenize("hello", &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.max_context(), 5);
}

TEST_F(ServerTest, ListensOnAUnixSocketAndReplacesAnOldOne) {
  const std::string address =
      "unix:" + ::testing::TempDir() + "/h2_" + std::to_string(getpid()) + ".sock";
  Start({.listen = address});
  EXPECT_EQ(server_->port(), 0);
  EXPECT_EQ(server_->address(), address);
  EXPECT_TRUE(Tokenize("hello").ok());
  server_.reset();
  Start({.listen = address});
  EXPECT_TRUE(Tokenize("hello").ok());
}

TEST_F(ServerTest, APortInUseIsNamedAndCannotBeShared) {
  Start();
  const absl::Status error = StartError(server_->address());
  EXPECT_EQ(error.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(error.message()),
              HasSubstr("probe cannot listen on " + server_->address() + ": port " +
                        std::to_string(server_->port()) + " is in use by another process"));
  EXPECT_THAT(std::string(error.message()), HasSubstr("--listen"));
}

TEST_F(ServerTest, BadAddressesAreNamed) {
  const absl::Status foreign = StartError("192.0.2.1:0", /*guarded=*/true);
  EXPECT_EQ(foreign.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(foreign.message()),
              HasSubstr("no network interface of this host has the address 192.0.2.1"));
  for (const char* address : {"", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", "unix:"}) {
    const absl::Status error = StartError(address);
    EXPECT_EQ(error.code(), absl::StatusCode::kInvalidArgument) << address << ": " << error;
    EXPECT_THAT(std::string(error.message()), HasSubstr("--listen")) << address;
  }
  EXPECT_EQ(StartError("0.0.0.0:0").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(StartError("0.0.0.0:0", /*guarded=*/true).ok());
}

TEST_F(ServerTest, ErrorsArriveWithTheirDetails) {
  Start();
  const grpc::Status status = Tokenize("fail");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "100 % \xC3\xA4 \n asked");
  const rpc::ErrorDetails details = rpc::DetailsOf(rpc::FromGrpc(status));
  EXPECT_EQ(details.reason, "AS_ASKED");
  EXPECT_EQ(details.metadata.at("limit"), "7");
  EXPECT_EQ(details.retry_after_ms, 1500);
  ASSERT_EQ(details.fields.size(), 1U);
  EXPECT_EQ(details.fields[0].field, "text");
}

TEST_F(ServerTest, MetadataAndDeadlineReachTheService) {
  Start();
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer abc");
  context.AddMetadata("x-thing", "one");
  context.AddMetadata("x-thing", "two");
  context.AddMetadata("x-bytes-bin", std::string("\0\xFF", 2));
  EXPECT_TRUE(Tokenize("hello", nullptr, &context).ok());
  const Metadata seen = probe_.metadata();
  EXPECT_EQ(seen.Find("authorization"), "Bearer abc");
  EXPECT_EQ(seen.Find("x-thing"), "one");
  EXPECT_EQ(seen.Count("x-thing"), 2U);
  EXPECT_EQ(seen.Find("x-bytes-bin"), "AP8");
  EXPECT_EQ(seen.Find("grpc-timeout"), std::nullopt);
  EXPECT_EQ(seen.Find(":path"), std::nullopt);
  ASSERT_TRUE(probe_.deadline().has_value());
  const auto now = std::chrono::steady_clock::now();
  EXPECT_GT(*probe_.deadline(), now + std::chrono::seconds(1));
  EXPECT_LT(*probe_.deadline(), now + std::chrono::seconds(22));
}

TEST_F(ServerTest, SeveralKeysAreRefused) {
  Start();
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer one");
  context.AddMetadata("authorization", "Bearer two");
  const grpc::Status status = Tokenize("hello", nullptr, &context);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("authorization"));
  EXPECT_EQ(probe_.begun, 0);
}

TEST_F(ServerTest, AnUnknownMethodIsNamed) {
  Start();
  grpc::ClientContext context;
  v1::ListModelsResponse response;
  const grpc::Status status = stub_->ListModels(&context, {}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(status.error_message(), HasSubstr("/conclave.v1.InferenceService/ListModels"));
}

TEST_F(ServerTest, LargeMessagesGoBothWays) {
  Start();
  v1::TokenizeResponse response;
  EXPECT_TRUE(Tokenize(std::string(4 << 20, 'a'), &response).ok());
  EXPECT_EQ(response.max_context(), 4 << 20);
  for (const int32_t size : {0, 1, 16'000, 70'000, 4 << 20}) {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    request.add_ids(size);
    v1::DetokenizeResponse text;
    EXPECT_TRUE(stub_->Detokenize(&context, request, &text).ok());
    EXPECT_EQ(text.text().size(), static_cast<size_t>(size));
  }
}

TEST_F(ServerTest, ATooLargeMessageIsRefusedWithTheSizesAndOthersGoOn) {
  Start({.max_receive_bytes = 100'000});
  const grpc::Status status = Tokenize(std::string(200'000, 'a'));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("is 200004 bytes"));
  EXPECT_THAT(status.error_message(), HasSubstr("100000"));
  EXPECT_TRUE(Tokenize(std::string(90'000, 'a')).ok());
}

TEST_F(ServerTest, CompressedMessagesAreRead) {
  Start({.max_receive_bytes = 1 << 20});
  for (const auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    grpc::ClientContext context;
    context.set_compression_algorithm(algorithm);
    v1::TokenizeResponse response;
    const grpc::Status status = Tokenize(std::string(500'000, 'a'), &response, &context);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.max_context(), 500'000);
    grpc::ClientContext other;
    other.set_compression_algorithm(algorithm);
    const grpc::Status bomb = Tokenize(std::string(3 << 20, 'a'), nullptr, &other);
    EXPECT_EQ(bomb.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_THAT(bomb.error_message(), HasSubstr("decompresses to at least"));
  }
}

TEST_F(ServerTest, StreamsWhatAnotherThreadWrites) {
  Start();
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.mutable_sampling()->set_max_tokens(5000);
  request.mutable_sampling()->set_seed(100);
  const auto reader = stub_->Generate(&context, request);
  v1::GenerateEvent event;
  int64_t count = 0;
  while (reader->Read(&event)) ASSERT_EQ(event.tokens().token_index(), count++);
  EXPECT_EQ(count, 5000);
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(ServerTest, AClientThatReadsTooSlowlyIsCutOff) {
  Start();
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.mutable_sampling()->set_max_tokens(100'000);
  request.mutable_sampling()->set_seed(10'000);
  const auto reader = stub_->Generate(&context, request);
  v1::GenerateEvent event;
  int64_t count = 0;
  EXPECT_TRUE(Probe::WaitFor([this] { return probe_.cancelled == 1; }));
  while (count < 2000 && reader->Read(&event)) {
    ASSERT_EQ(event.tokens().token_index(), count++);
  }
  ASSERT_LT(count, 2000);
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("reads too slowly"));
}

TEST_F(ServerTest, ALongAnswerLetsShortOnesPass) {
  Start();
  grpc::ClientContext context;
  v1::DetokenizeRequest request;
  request.add_ids(16 << 20);
  v1::DetokenizeResponse text;
  std::promise<grpc::Status> done;
  stub_->async()->Detokenize(&context, &request, &text,
                             [&done](grpc::Status status) { done.set_value(status); });
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(Tokenize("hello").ok());
  EXPECT_TRUE(done.get_future().get().ok());
  EXPECT_EQ(text.text().size(), 16U << 20);
}

TEST_F(ServerTest, ASessionAnswersInOrderAndEndsWithTheClient) {
  Start();
  const auto session = Open(*stub_);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(Ask(*session, std::to_string(i)));
  session->stream->WritesDone();
  EXPECT_TRUE(session->stream->Finish().ok());
  EXPECT_EQ(probe_.cancelled, 0);
}

TEST_F(ServerTest, GatheredAnswersShareAMessage) {
  Start();
  grpc::ClientContext context;
  const auto stream = stub_->Session(&context);
  v1::SessionRequest request;
  request.set_gather(true);
  request.mutable_cancel()->set_request_id("0");
  for (int i = 1; i < 50; ++i) {
    request.add_more()->mutable_cancel()->set_request_id(std::to_string(i));
  }
  ASSERT_TRUE(stream->Write(request));
  v1::SessionEvent event;
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_EQ(event.request_id(), "0");
  ASSERT_EQ(event.more_size(), 49);
  for (int i = 1; i < 50; ++i) EXPECT_EQ(event.more(i - 1).request_id(), std::to_string(i));
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ServerTest, AClientThatGivesUpCancelsItsCall) {
  Start();
  const auto session = Open(*stub_);
  session->context.TryCancel();
  EXPECT_EQ(session->stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Probe::WaitFor([this] { return probe_.cancelled == 1; }));
  EXPECT_TRUE(Tokenize("hello").ok());
}

TEST_F(ServerTest, AClientThatVanishesCancelsItsCalls) {
  Start();
  auto client = std::make_unique<RawClient>(server_->port());
  client->Greet();
  client->Send(RawClient::HeadersFrame(1, RawClient::CallHeaders("Session")));
  EXPECT_TRUE(Probe::WaitFor([this] { return probe_.begun == 1; }));
  client.reset();
  EXPECT_TRUE(Probe::WaitFor([this] { return probe_.cancelled == 1; }));
  EXPECT_TRUE(Probe::WaitFor([this] { return server_->num_connections() == 0; }));
}

TEST_F(ServerTest, AThousandCallsAtOnceShareAConnection) {
  Start();
  constexpr int kCalls = 1000;
  struct Call {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    v1::TokenizeResponse response;
  };
  std::vector<std::unique_ptr<Call>> calls;
  std::atomic<int> good{0}, ended{0};
  for (int i = 0; i < kCalls; ++i) {
    auto& call = *calls.emplace_back(std::make_unique<Call>());
    call.request.set_text(std::string(static_cast<size_t>(i), 'a'));
    stub_->async()->Tokenize(&call.context, &call.request, &call.response,
                             [&, i](const grpc::Status& status) {
                               good += status.ok() && call.response.max_context() == i;
                               ++ended;
                             });
  }
  ASSERT_TRUE(Probe::WaitFor([&] { return ended == kCalls; }));
  EXPECT_EQ(good, kCalls);
  EXPECT_EQ(server_->num_connections(), 1);
}

TEST_F(ServerTest, CallsBeyondTheLimitWaitInTheClient) {
  Start({.max_concurrent_streams = 2});
  const auto first = Open(*stub_), second = Open(*stub_);
  grpc::ClientContext context;
  v1::TokenizeRequest request;
  v1::TokenizeResponse response;
  std::promise<grpc::Status> done;
  stub_->async()->Tokenize(&context, &request, &response,
                           [&done](grpc::Status status) { done.set_value(status); });
  EXPECT_TRUE(Ask(*first, "again"));
  EXPECT_EQ(probe_.begun, 2);
  second->stream->WritesDone();
  EXPECT_TRUE(second->stream->Finish().ok());
  EXPECT_TRUE(done.get_future().get().ok());
  first->context.TryCancel();
  first->stream->Finish();
}

TEST_F(ServerTest, SeveralThreadsServe) {
  Start({.num_threads = 3});
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs;
  for (int i = 0; i < 7; ++i) {
    stub_ = Stub();
    EXPECT_TRUE(Tokenize("hello").ok());
    stubs.push_back(std::move(stub_));
  }
  EXPECT_GE(server_->num_connections(), 7);
}

TEST_F(ServerTest, DrainLetsACallFinishWithinItsGrace) {
  Start();
  const auto session = Open(*stub_);
  std::thread drain([&] { server_->Drain(milliseconds(10'000)); });
  grpc::Status refused;
  do {
    refused = Tokenize("hello", nullptr, nullptr, Stub().get());
  } while (refused.ok());
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(Ask(*session, "still here"));
  session->stream->WritesDone();
  EXPECT_TRUE(session->stream->Finish().ok());
  drain.join();
  EXPECT_EQ(probe_.cancelled, 0);
}

TEST_F(ServerTest, DrainEndsWhatOutlivesItsGraceAndSaysWhy) {
  Start();
  const auto session = Open(*stub_);
  const auto start = std::chrono::steady_clock::now();
  server_->Drain(milliseconds(50));
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(5000));
  const grpc::Status status = session->stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("shutting down"));
  EXPECT_EQ(probe_.cancelled, 1);
}

TEST_F(ServerTest, ConnectionsThatAgedAreReplacedAndNoCallFails) {
  Start({.max_connection_age = milliseconds(200)});
  const auto session = Open(*stub_);
  int32_t most = 0;
  EXPECT_TRUE(Probe::WaitFor([&] {
    const grpc::Status status = Tokenize("hello");
    EXPECT_TRUE(status.ok()) << status.error_message();
    most = std::max(most, server_->num_connections());
    return most >= 2 || !status.ok();
  }));
  // What began on the first connection is still there.
  EXPECT_TRUE(Ask(*session, "still here"));
  session->stream->WritesDone();
  EXPECT_TRUE(session->stream->Finish().ok());
}

TEST_F(ServerTest, WhatAnAgedConnectionDoesNotAnswerWasNeverSent) {
  Start({.max_connection_age = milliseconds(5)});
  const auto end = std::chrono::steady_clock::now() + milliseconds(1500);
  std::atomic<int> answered{0};
  const auto ask = [&] {
    const auto stub = Stub();
    while (std::chrono::steady_clock::now() < end) {
      grpc::ClientContext context;
      const grpc::Status status = Tokenize("hello", nullptr, &context, stub.get());
      if (status.ok()) {
        ++answered;
      } else {
        EXPECT_TRUE(rpc::NeverSent(context, status)) << context.debug_error_string();
      }
    }
  };
  std::thread other(ask);
  ask();
  other.join();
  // Whatever was sent again had not begun.
  EXPECT_EQ(probe_.begun, answered);
  EXPECT_GT(answered, 0);
}

// gRPC's clients answer pings before they write what they had begun.
TEST_F(ServerTest, TheLastGoawayNamesTheCallsWrittenAfterTheFirstWasAnswered) {
  Start({.max_connection_age = milliseconds(50)});
  RawClient client(server_->port());
  client.Greet();
  const auto last_call = [&client] {
    const Frame frame = client.ReadUntil(NGHTTP2_GOAWAY);
    EXPECT_EQ(frame.type, NGHTTP2_GOAWAY);
    return frame.payload.substr(0, 4);
  };
  const auto answered = [](const Frame& ping) {
    return RawClient::FrameBytes(NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, ping.payload);
  };
  EXPECT_EQ(last_call(), "\x7f\xff\xff\xff");
  const Frame ping = client.ReadUntil(NGHTTP2_PING);
  client.Send(answered(ping) + RawClient::HeadersFrame(1, RawClient::CallHeaders("Session")));
  client.Send(answered(client.ReadUntil(NGHTTP2_PING)) +
              RawClient::HeadersFrame(3, RawClient::CallHeaders("Session")));
  EXPECT_EQ(last_call(), std::string("\0\0\0\3", 4));
  EXPECT_EQ(probe_.begun, 2);
}

TEST_F(ServerTest, ACallMayOutliveItsServer) {
  Start();
  std::shared_ptr<ServerCall> kept;
  Service service = {.name = "test.Keeper", .methods = {}};
  class Keep final : public ServerCall {
   public:
    void OnMessage(std::string_view) override {}
    void OnHalfClose() override {}
    void OnCancel() override { cancelled = true; }
    std::atomic<bool> cancelled{false};
  };
  std::promise<void> made;
  service.methods.emplace_back("Keep", [&](const CallStart&) {
    auto call = std::make_shared<Keep>();
    kept = call;
    made.set_value();
    return call;
  });
  auto server = *Server::Start({.name = "keeper", .listen = "127.0.0.1:0"}, {service});
  grpc::GenericStub stub(
      grpc::CreateChannel(server->address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  grpc::ByteBuffer request, response;
  const grpc::Slice nothing;
  request = grpc::ByteBuffer(&nothing, 1);
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, "/test.Keeper/Keep", {}, &request, &response,
                 [&](grpc::Status status) { done.set_value(status); });
  made.get_future().wait();
  server.reset();
  EXPECT_EQ(done.get_future().get().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(static_cast<Keep&>(*kept).cancelled);
  EXPECT_FALSE(kept->WriteBytes("too late"));
  kept->Finish(absl::OkStatus());
}

}  // namespace
}  // namespace conclave::h2
