// What very long prompts cost the gateway and its other clients: over HTTP and gRPC, on real ports.
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <string>
#include <thread>

#include "conclave/v1/inference.grpc.pb.h"
#include "services/gateway/prompt_lanes.h"
#include "shared/rpc/status.h"
#include "tests/gateway/gateway_rig.h"

namespace conclave::gateway {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

std::string Words(size_t bytes) {
  std::string text;
  text.reserve(bytes + 8);
  while (text.size() < bytes) text += "the wolf ";
  return text;
}

json Chat(const std::string& content) {
  return {{"messages", {{{"role", "user"}, {"content", content}}}}};
}

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * 4096;
}

class LongPromptsTest : public testing::Test {
 protected:
  void Start(GatewayRig::Options options = {}) {
    rig_ = std::make_unique<GatewayRig>(std::move(options), [](const v1::StartSequence&) {
      return Script{.ids = {300, 301}, .stop_id = 2};
    });
    rig_->ConnectEngines();
    stub_ = v1::InferenceService::NewStub(
        grpc::CreateChannel(rig_->grpc_address(), grpc::InsecureChannelCredentials()));
  }

  std::unique_ptr<GatewayRig> rig_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

TEST_F(LongPromptsTest, AMegabyteIsRefusedAtOnceWithBothNumbers) {
  Start();
  for (const auto& [path, body] :
       {std::pair<std::string, json>{"/v1/chat/completions", Chat(Words(1 << 20))},
        std::pair<std::string, json>{"/v1/completions", {{"prompt", Words(1 << 20)}}},
        std::pair<std::string, json>{"/v1/completions", {{"prompt", std::string(1 << 20, 'a')}}}}) {
    const std::string text = body.dump();
    const auto begin = steady_clock::now();
    const http::RawResponse response = rig_->Post(path, text);
    EXPECT_LT(steady_clock::now() - begin, milliseconds(2000));
    EXPECT_EQ(response.status, 400);
    const json error = json::parse(response.body).at("error");
    EXPECT_EQ(error.at("code"), "context_length_exceeded");
    const std::string message = error.at("message");
    // By its bytes, 13 a token at most. Encoding it until the context is full would find 64.
    EXPECT_NE(message.find("at least 80"), std::string::npos) << message;
    EXPECT_NE(message.find("holds 64"), std::string::npos) << message;
  }
  v1::GenerateRequest request;
  request.set_text(Words(1 << 20));
  v1::CompleteResponse answer;
  grpc::ClientContext context;
  const grpc::Status status = stub_->Complete(&context, request, &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const rpc::ErrorDetails details = rpc::DetailsOf(rpc::FromGrpc(status));
  EXPECT_EQ(details.reason, "CONTEXT_LENGTH_EXCEEDED");
  EXPECT_EQ(details.metadata.at("context_tokens"), "64");
  EXPECT_GT(std::stoi(details.metadata.at("prompt_tokens")), 64);
}

TEST_F(LongPromptsTest, ShortRequestsDoNotWaitForLongOnes) {
  Start();
  // Eight long texts to encode, four over each face: seconds of work for one thread.
  const std::string body = json{{"prompt", Words(512 << 10)}}.dump();
  std::vector<std::thread> heavy;
  std::atomic<int> answered{0};
  for (int i = 0; i < 4; ++i) {
    heavy.emplace_back([&] {
      EXPECT_EQ(rig_->Post("/tokenize", body).status, 200);
      ++answered;
    });
    heavy.emplace_back([&] {
      v1::TokenizeRequest request;
      request.set_text(Words(512 << 10));
      v1::TokenizeResponse response;
      grpc::ClientContext context;
      EXPECT_TRUE(stub_->Tokenize(&context, request, &response).ok());
      ++answered;
    });
  }
  Duration worst{0};
  int short_ones = 0;
  while (answered < 8) {
    const auto begin = steady_clock::now();
    const http::RawResponse response = rig_->Post("/v1/chat/completions", Chat("Hi"));
    EXPECT_EQ(response.status, 200) << response.body;
    worst = std::max<Duration>(worst, steady_clock::now() - begin);
    ++short_ones;
  }
  for (std::thread& thread : heavy) thread.join();
  EXPECT_GT(short_ones, 5) << "hardly any short request was answered meanwhile";
  EXPECT_LT(worst, milliseconds(1500));
  std::printf("%d short requests meanwhile, the slowest took %.1f ms\n", short_ones,
              std::chrono::duration<double, std::milli>(worst).count());
}

TEST_F(LongPromptsTest, DeadlinesHoldWhileALongPromptWaitsAndIsEncoded) {
  Start();
  const std::string body = json{{"prompt", Words(2 << 20)}}.dump();
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      const auto begin = steady_clock::now();
      EXPECT_EQ(rig_->Post("/tokenize", body, "x-request-timeout-ms: 50\r\n").status, 504);
      EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(4));
    });
  }
  for (std::thread& client : clients) client.join();
  v1::TokenizeRequest request;
  request.set_text(Words(2 << 20));
  v1::TokenizeResponse response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(50));
  EXPECT_EQ(stub_->Tokenize(&context, request, &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(LongPromptsTest, AClientThatLeavesFreesTheLane) {
  Start();
  const std::string heavy = rig_->PostText("/tokenize", json{{"prompt", Words(3 << 20)}}.dump());
  for (int i = 0; i < 8; ++i) {
    http::RawClient client(rig_->http_address());
    ASSERT_TRUE(client.Send(heavy));
    client.Close();
  }
  // Were all eight encoded, this one would wait for half a minute of work.
  const auto begin = steady_clock::now();
  EXPECT_EQ(rig_->Post("/tokenize", json{{"prompt", Words(kShortPromptBytes)}}).status, 200);
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(8));
}

TEST_F(LongPromptsTest, MemoryIsHandedBack) {
  Start();
  ASSERT_EQ(rig_->Post("/tokenize", json{{"prompt", "warm up"}}).status, 200);
  const std::string body = json{{"prompt", Words(1 << 20)}}.dump();
  const int64_t before = ResidentBytes();
  for (int i = 0; i < 2; ++i) EXPECT_EQ(rig_->Post("/tokenize", body).status, 200);
  // A megabyte of words takes some 200 MiB to encode.
  EXPECT_TRUE(GatewayRig::WaitFor([&] { return ResidentBytes() - before < 64 << 20; }))
      << (ResidentBytes() - before) / (1 << 20) << " MiB more than before";
}

TEST_F(LongPromptsTest, BothFacesTakeTheSameMostBytes) {
  Start({.max_body_bytes = 100'000});
  const std::string body = json{{"prompt", Words(100'000)}}.dump();
  const http::RawResponse http = rig_->Post("/tokenize", body);
  EXPECT_EQ(http.status, 413);
  EXPECT_NE(http.body.find(std::to_string(body.size())), std::string::npos) << http.body;
  EXPECT_NE(http.body.find("100000"), std::string::npos) << http.body;
  v1::TokenizeRequest request;
  v1::TokenizeResponse response;
  request.set_text(Words(100'000));
  grpc::ClientContext context;
  const grpc::Status status = stub_->Tokenize(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(status.error_message().find("100000"), std::string::npos) << status.error_message();
  EXPECT_NE(status.error_message().find(std::to_string(request.ByteSizeLong())), std::string::npos)
      << status.error_message();
  request.set_text(Words(90'000));
  grpc::ClientContext again;
  EXPECT_TRUE(stub_->Tokenize(&again, request, &response).ok());
  EXPECT_EQ(rig_->Post("/tokenize", json{{"prompt", Words(90'000)}}).status, 200);
}

}  // namespace
}  // namespace conclave::gateway
