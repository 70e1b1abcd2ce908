// What prompts that take long to encode cost other calls of the same I/O thread.
#include "services/gateway/grpc_prepare.h"

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <map>
#include <thread>

#include "conclave/v1/inference.grpc.pb.h"
#include "tests/gateway/http_api_fixture.h"

namespace conclave::gateway {
namespace {

constexpr int kParts = 300;
constexpr char kLast[] = "last";

class GrpcPrepareTest : public HttpApiTest {
 protected:
  using Stub = v1::InferenceService::Stub;

  void Start() {
    HttpApiTest::Start({.hello = TalesHello(64 << 10), .grpc_threads = 1});
    heavy_ = Connect(1);
    light_ = Connect(2);
  }
  // By a connection of its own.
  std::unique_ptr<Stub> Connect(int number) {
    grpc::ChannelArguments arguments;
    arguments.SetInt("test.connection", number);
    return v1::InferenceService::NewStub(grpc::CreateCustomChannel(
        rig_->grpc_address(), grpc::InsecureChannelCredentials(), arguments));
  }
  grpc::Status Complete(v1::GenerateRequest request, v1::CompleteResponse* answer) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    return light_->Complete(&context, request, answer);
  }
  // One message of almost 4 MiB, whose encoding takes one thread two seconds.
  static v1::SessionRequest Heavy() {
    std::string text;
    while (text.size() < 13'000) text += "31415926535";  // digits take longest
    v1::SessionRequest message;
    message.set_gather(true);
    for (int i = 0; i < kParts; ++i) {
      v1::GenerateRequest* const request = message.add_more()->mutable_generate();
      request->set_request_id(i + 1 == kParts ? kLast : "part-" + std::to_string(i));
      request->set_text(text);
    }
    return message;
  }
  void Prepare(const v1::GenerateRequest& request,
               std::function<void(absl::StatusOr<PreparedRequest>)> done) {
    PrepareGrpc(&rig_->frontend(), {.bytes = request.ByteSizeLong(),
                                    .message_bytes = request.ByteSizeLong(),
                                    .parse =
                                        [request](v1::GenerateRequest* parsed) {
                                          *parsed = request;
                                          return absl::OkStatus();
                                        },
                                    .origin = std::make_shared<const CallOrigin>(),
                                    .interrupt = std::make_shared<text::Interrupt>(),
                                    .done = std::move(done)});
  }
  // Which requests reached the engine, up to one that is sent now.
  std::vector<std::string> Started() {
    v1::GenerateRequest request;
    request.set_request_id("the-end");
    request.set_text("And");
    v1::CompleteResponse answer;
    EXPECT_TRUE(Complete(request, &answer).ok());
    std::vector<std::string> started;
    for (;;) {
      const auto start = rig_->engine().NextStart();
      if (!start || start->request_id() == request.request_id()) return started;
      started.push_back(start->request_id());
    }
  }

  std::unique_ptr<Stub> heavy_, light_;
};

TEST_F(GrpcPrepareTest, KeptAnswersDoNotWaitForTheEncodingOfOthersPrompts) {
  Start();
  v1::GenerateRequest kept;
  kept.set_text("Once");
  kept.mutable_sampling()->set_temperature(0);
  v1::CompleteResponse answer;
  ASSERT_TRUE(Complete(kept, &answer).ok());
  ASSERT_TRUE(rig_->engine().NextStart());
  grpc::ClientContext context;
  const auto session = heavy_->Session(&context);
  ASSERT_TRUE(session->Write(Heavy()));
  ASSERT_TRUE(rig_->engine().NextStart());  // it has come
  for (int i = 0; i < 10; ++i) {
    v1::CompleteResponse again;
    const grpc::Status status = Complete(kept, &again);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(again.started().cache(), v1::CACHE_STATUS_HIT);
  }
  context.TryCancel();
  EXPECT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_running() == 0; }));
  // Those whose turn had not come before the kept answers were there.
  EXPECT_LT(Started().size(), kParts - 50U);
}

TEST_F(GrpcPrepareTest, ARequestThatWaitsToBeEncodedCanBeCancelled) {
  Start();
  grpc::ClientContext context;
  const auto session = heavy_->Session(&context);
  ASSERT_TRUE(session->Write(Heavy()));
  v1::SessionRequest cancel;
  cancel.mutable_cancel()->set_request_id(kLast);
  ASSERT_TRUE(session->Write(cancel));
  session->WritesDone();
  std::map<std::string, int> ends;
  v1::SessionEvent message;
  const auto take = [&](const v1::SessionEvent& event) {
    if (event.has_failed()) {
      EXPECT_EQ(event.failed().code(), grpc::StatusCode::CANCELLED) << event.failed().message();
      EXPECT_EQ(event.request_id(), kLast);
      EXPECT_LT(ends.size(), kParts - 50U) << "it was not told before its turn came";
      ++ends[event.request_id()];
    }
    if (event.generate().has_usage()) ++ends[event.request_id()];
  };
  while (session->Read(&message)) {
    take(message);
    for (const v1::SessionEvent& event : message.more()) take(event);
  }
  EXPECT_TRUE(session->Finish().ok());
  EXPECT_EQ(ends.size(), static_cast<size_t>(kParts));
  for (const auto& [id, count] : ends) EXPECT_EQ(count, 1) << id;
  const std::vector<std::string> started = Started();
  EXPECT_EQ(started.size(), kParts - 1U);
  EXPECT_EQ(std::count(started.begin(), started.end(), kLast), 0);
}

TEST_F(GrpcPrepareTest, SmallMessagesAreEncodedWhereTheyArrive) {
  Start();
  v1::GenerateRequest request;
  request.set_text(std::string(kQuickPromptBytes / 2, 'a'));
  std::thread::id thread;
  Prepare(request, [&](absl::StatusOr<PreparedRequest> prepared) {
    EXPECT_TRUE(prepared.ok()) << prepared.status();
    thread = std::this_thread::get_id();
  });
  EXPECT_EQ(thread, std::this_thread::get_id());
}

TEST_F(GrpcPrepareTest, WhoIsRefusedHasNoPlaceAnyMore) {
  Start();
  for (const size_t bytes : {size_t{0}, kShortPromptBytes, 2 * kShortPromptBytes}) {
    v1::GenerateRequest request;
    request.set_text(std::string(bytes, 'a'));
    request.mutable_sampling()->set_temperature(9);
    std::promise<int32_t> running;
    Prepare(request, [&](absl::StatusOr<PreparedRequest> prepared) {
      EXPECT_TRUE(absl::IsInvalidArgument(prepared.status())) << prepared.status();
      running.set_value(rig_->frontend().num_running());
    });
    EXPECT_EQ(running.get_future().get(), 0) << bytes;
  }
}

}  // namespace
}  // namespace conclave::gateway
