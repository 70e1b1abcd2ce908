#include "shared/h2/reflection.h"

#include <gmock/gmock.h>

#include "google/protobuf/descriptor.pb.h"
#include "tests/h2/probe_service.h"
#include "tests/h2/raw_client.h"

namespace conclave::h2 {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Fields of ServerReflectionRequest and ServerReflectionResponse.
constexpr int kFileByFilename = 3, kFileContainingSymbol = 4, kListServices = 7;
constexpr int kFileDescriptorResponse = 4;

class ReflectionTest : public ServerFixture {
 protected:
  void SetUp() override {
    Start();
    client_ = std::make_unique<RawClient>(server_->port());
    client_->Greet();
    auto headers = RawClient::CallHeaders("");
    headers[2].second = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
    client_->Send(RawClient::HeadersFrame(1, headers));
  }
  void Send(const std::string& request) {
    client_->Send(RawClient::DataFrame(1, RawClient::Message(request)));
  }
  std::string Ask(int field, const std::string& value) {
    Send(Field(field, value));
    std::string answer;
    while (answer.size() < kPrefixBytes || answer.size() < kPrefixBytes + LengthIn(answer)) {
      const Frame frame = client_->ReadUntil(NGHTTP2_DATA);
      if (frame.type < 0) return "";
      answer += frame.payload;
    }
    return answer.substr(kPrefixBytes);
  }
  static std::string Field(int number, const std::string& value) {
    std::string bytes;
    AppendVarint(static_cast<uint64_t>(number) << 3 | 2, &bytes);
    AppendVarint(value.size(), &bytes);
    return bytes + value;
  }

  std::unique_ptr<RawClient> client_;
};

TEST_F(ReflectionTest, ListsTheServices) {
  const std::string answer = Ask(kListServices, "");
  EXPECT_THAT(answer, HasSubstr("conclave.v1.InferenceService"));
  EXPECT_THAT(answer, HasSubstr("grpc.health.v1.Health"));
  EXPECT_THAT(answer, HasSubstr("grpc.reflection.v1alpha.ServerReflection"));
}

TEST_F(ReflectionTest, GivesTheFileOfASymbolWithAllThatItImports) {
  const std::string& asked = "conclave.v1.InferenceService.Generate";
  const std::string by_symbol = Ask(kFileContainingSymbol, asked);
  const std::string by_name = Ask(kFileByFilename, "conclave/v1/inference.proto");
  const auto begin = [](const std::string& answer, const std::string& value) {
    return answer.substr(0, value.size() + 6).find(value);
  };
  EXPECT_NE(begin(by_symbol, asked), std::string::npos);  // original_request
  for (const std::string& answer : {by_symbol, by_name}) {
    // Behind the original request (field 2) is a list of files.
    const size_t skipped = 2 + static_cast<unsigned char>(answer[1]);
    std::string tag;
    AppendVarint(kFileDescriptorResponse << 3 | 2, &tag);
    ASSERT_EQ(answer.substr(skipped, 1), tag);
    EXPECT_THAT(answer, HasSubstr("GenerateRequest"));
  }
}

TEST_F(ReflectionTest, WhatIsNotKnownIsSaidAndTheNextQuestionAnswered) {
  EXPECT_THAT(Ask(kFileContainingSymbol, "no.such.Symbol"),
              HasSubstr("\"no.such.Symbol\" is not known"));
  EXPECT_THAT(Ask(kFileByFilename, "../secret"), HasSubstr("\"../secret\" is not known"));
  EXPECT_THAT(Ask(5, "extension"), HasSubstr("ask for list_services"));
  EXPECT_THAT(Ask(99, "later"), HasSubstr("ask for list_services"));
  EXPECT_THAT(Ask(kListServices, "x"), Not(HasSubstr("not known")));
  client_->Send(RawClient::DataFrame(1, "", true));
  EXPECT_EQ(client_->ReadTrailers(1).at("grpc-status"), "0");
}

TEST_F(ReflectionTest, WhatIsNoRequestEndsTheCall) {
  Send("\x1a\x7fshort");
  EXPECT_EQ(client_->ReadTrailers(1).at("grpc-status"), "3");
}

}  // namespace
}  // namespace conclave::h2
