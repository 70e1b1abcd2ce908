// Bytes that are no message, on every method of the inference service: an answer that says so.
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <future>
#include <string>

#include "conclave/v1/inference.grpc.pb.h"
#include "tests/gateway/gateway_rig.h"

namespace conclave::gateway {
namespace {

grpc::ByteBuffer Bytes(const std::string& text) {
  const grpc::Slice slice(text);
  return grpc::ByteBuffer(&slice, 1);
}

// Field 3 of a GenerateRequest, field 2 of a TokenizeRequest, ..., with bytes that are not UTF-8.
std::string NotUtf8(int field) {
  std::string bytes = {static_cast<char>(field << 3 | 2), 2};
  return bytes + "\xFF\xFE";
}

class GrpcMalformedTest : public testing::Test {
 protected:
  void SetUp() override {
    rig_ = std::make_unique<GatewayRig>(GatewayRig::Options{}, [](const v1::StartSequence&) {
      return Script{.ids = {300, 301}, .stop_id = 2};
    });
    rig_->ConnectEngines();
    channel_ = grpc::CreateChannel(rig_->grpc_address(), grpc::InsecureChannelCredentials());
    stub_ = std::make_unique<grpc::GenericStub>(channel_);
  }

  // A call with one message of these bytes, and how it ended.
  grpc::Status Call(const std::string& method, const std::string& bytes,
                    std::vector<grpc::ByteBuffer>* answers = nullptr) {
    class Reactor final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
     public:
      void OnWriteDone(bool) override { StartWritesDone(); }
      void OnReadDone(bool ok) override {
        if (!ok) return;
        answers.push_back(answer);
        StartRead(&answer);
      }
      void OnDone(const grpc::Status& status) override { done.set_value(status); }
      grpc::ByteBuffer request, answer;
      std::vector<grpc::ByteBuffer> answers;
      std::promise<grpc::Status> done;
    };
    Reactor reactor;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    reactor.request = Bytes(bytes);
    stub_->PrepareBidiStreamingCall(&context, "/conclave.v1.InferenceService/" + method, {},
                                    &reactor);
    reactor.StartWrite(&reactor.request);
    reactor.StartRead(&reactor.answer);
    reactor.StartCall();
    const grpc::Status status = reactor.done.get_future().get();
    if (answers) *answers = std::move(reactor.answers);
    return status;
  }

  std::unique_ptr<GatewayRig> rig_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<grpc::GenericStub> stub_;
};

TEST_F(GrpcMalformedTest, SaysWhatIsWrongWithBytesThatAreNoMessage) {
  const std::pair<const char*, const char*> methods[] = {{"Generate", "GenerateRequest"},
                                                         {"Complete", "GenerateRequest"},
                                                         {"Cancel", "CancelRequest"},
                                                         {"Tokenize", "TokenizeRequest"},
                                                         {"Detokenize", "DetokenizeRequest"}};
  for (const auto& [method, message] : methods) {
    // A length that runs beyond the end, a group that never ends, a broken varint.
    for (const std::string bad :
         {"\x0A\x7F", "\x0B", "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"}) {
      const grpc::Status status = Call(method, bad);
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
      EXPECT_NE(status.error_message().find(message), std::string::npos) << status.error_message();
    }
  }
}

TEST_F(GrpcMalformedTest, SaysThatAStringIsNotUtf8) {
  for (const auto& [method, field] : {std::pair{"Generate", 3},
                                      {"Complete", 3},
                                      {"Cancel", 1},
                                      {"Tokenize", 1},
                                      {"Detokenize", 1}}) {
    const grpc::Status status = Call(method, NotUtf8(field));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
    EXPECT_NE(status.error_message().find("UTF-8"), std::string::npos) << status.error_message();
  }
}

TEST_F(GrpcMalformedTest, AnEmptyMessageHasItsDefaults) {
  EXPECT_NE(Call("Generate", "").error_message().find("prompt"), std::string::npos);
  EXPECT_EQ(Call("Cancel", "").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(Call("ListModels", "").ok());
}

TEST_F(GrpcMalformedTest, ASessionAnswersBadBytesAndGoesOn) {
  std::vector<grpc::ByteBuffer> answers;
  EXPECT_TRUE(Call("Session", "\x0A\x7F", &answers).ok());
  ASSERT_EQ(answers.size(), 1U);
  v1::SessionEvent event;
  grpc::Slice answer;
  ASSERT_TRUE(answers[0].DumpToSingleSlice(&answer).ok());
  ASSERT_TRUE(event.ParseFromArray(answer.begin(), static_cast<int>(answer.size())));
  EXPECT_EQ(event.failed().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(event.failed().message().find("SessionRequest"), std::string::npos);
}

TEST_F(GrpcMalformedTest, OtherRequestsAreUntouched) {
  for (int i = 0; i < 50; ++i) Call("Generate", std::string(static_cast<size_t>(i + 1), '\xFF'));
  const auto stub = v1::InferenceService::NewStub(channel_);
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.set_text("The wolf");
  v1::CompleteResponse response;
  EXPECT_TRUE(stub->Complete(&context, request, &response).ok());
}

}  // namespace
}  // namespace conclave::gateway
