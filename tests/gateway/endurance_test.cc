// Many choices, clients that do not read, many requests: what stays bounded, and who is untouched.
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "conclave/v1/inference.grpc.pb.h"
#include "services/gateway/canonicalize.h"
#include "shared/h2/server_call.h"
#include "tests/gateway/http_api_fixture.h"

namespace conclave::gateway {
namespace {

using std::chrono::steady_clock;

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * 4096;
}

class EnduranceTest : public HttpApiTest {
 protected:
  // With their log-probabilities some 20 MiB over HTTP: more than the gateway and both sockets
  // keep.
  static constexpr size_t kManyTokens = 40'000;

  // One engine says very much, the other is free for other requests.
  void StartEndless() {
    Start({.num_engines = 2, .hello = TalesHello(1 << 20)});
    std::vector<int32_t> ids;
    while (ids.size() < kManyTokens) ids.push_back(300 + static_cast<int32_t>(ids.size() % 50));
    Play({.ids = std::move(ids), .hang_after = true, .ids_per_event = 4});
  }
  std::unique_ptr<v1::InferenceService::Stub> Stub() {
    return v1::InferenceService::NewStub(
        grpc::CreateChannel(rig_->grpc_address(), grpc::InsecureChannelCredentials()));
  }
  void ExpectServesOthers() {
    Say("The wolf ran away.");
    const RawResponse response = rig_->Post(kChat, Chat());
    ASSERT_EQ(response.status, 200) << response.body;
    EXPECT_EQ(json::parse(response.body)["choices"][0]["message"]["content"], "The wolf ran away.");
  }
};

TEST_F(EnduranceTest, AnswersAsManyChoicesAsAllowed) {
  Start();
  const json answer = json::parse(rig_->Post(kChat, Chat({{"n", kMaxChoices}})).body);
  ASSERT_EQ(answer["choices"].size(), static_cast<size_t>(kMaxChoices));
  for (size_t i = 0; i < answer["choices"].size(); ++i) {
    EXPECT_EQ(answer["choices"][i]["index"], i);
    EXPECT_EQ(answer["choices"][i]["message"]["content"], "The wolf ran away.");
    EXPECT_EQ(answer["choices"][i]["finish_reason"], "stop");
  }
  const size_t tokens = rig_->Ids("The wolf ran away.").size() + 1;
  EXPECT_EQ(answer["usage"]["completion_tokens"], tokens * static_cast<size_t>(kMaxChoices));

  const RawResponse stream = rig_->Post(kChat, Chat({{"n", kMaxChoices}, {"stream", true}}));
  std::map<int, std::string> texts;
  int finished = 0;
  for (const json& event : SseData(stream.body)) {
    if (!event.is_object()) continue;
    for (const json& choice : event["choices"]) {
      texts[choice["index"]] += choice["delta"].value("content", "");
      finished += !choice["finish_reason"].is_null();
    }
  }
  EXPECT_EQ(finished, kMaxChoices);
  EXPECT_EQ(texts.size(), static_cast<size_t>(kMaxChoices));
  for (const auto& [index, text] : texts) EXPECT_EQ(text, "The wolf ran away.") << index;

  v1::GenerateRequest request;
  request.set_text("A wolf");
  request.mutable_sampling()->set_num_choices(kMaxChoices);
  v1::CompleteResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(Stub()->Complete(&context, request, &response).ok());
  EXPECT_EQ(response.choices_size(), kMaxChoices);
  std::set<std::pair<uint64_t, int32_t>> sequences;  // seed and choice decide what is drawn
  for (int i = 0; i < kMaxChoices; ++i) {
    const auto start = rig_->engine().NextStart();
    ASSERT_TRUE(start.has_value());
    sequences.emplace(start->seed(), start->choice_index());
  }
  EXPECT_EQ(sequences.size(), static_cast<size_t>(kMaxChoices));
}

TEST_F(EnduranceTest, AClientThatDoesNotReadItsStreamIsCutAndOthersAreUntouched) {
  StartEndless();
  const int64_t before = ResidentBytes();
  RawClient idle(rig_->http_address());
  idle.ShrinkReceiveBuffer();
  const json body = Chat({{"stream", true}, {"logprobs", true}, {"top_logprobs", 10}});
  idle.Send(GatewayRig::PostText(kChat, body.dump()));
  ASSERT_NE(idle.ReadUntil("logprobs"), "");
  ExpectServesOthers();
  // Nothing is read, so the connection ends when what waits is too much; the engine then hears it.
  EXPECT_TRUE(rig_->engine().NextCancel().has_value());
  EXPECT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_running() == 0; }));
  EXPECT_LT(ResidentBytes() - before, 64 << 20);
  ExpectServesOthers();
}

TEST_F(EnduranceTest, AGrpcClientThatDoesNotReadIsCutAndOthersAreUntouched) {
  StartEndless();
  const auto stub = Stub();
  v1::GenerateRequest request;
  request.set_text("A wolf");
  request.mutable_sampling()->set_top_logprobs(20);
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  v1::GenerateEvent event;
  while (!event.has_tokens()) ASSERT_TRUE(reader->Read(&event));
  ExpectServesOthers();
  EXPECT_TRUE(rig_->engine().NextCancel().has_value());
  size_t read = 0;
  while (reader->Read(&event)) read += event.ByteSizeLong();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_LT(read, 2 * h2::kMaxUnsentBytes) << "the gateway and the channel kept more";
  ExpectServesOthers();
}

TEST_F(EnduranceTest, MemoryStaysWhereItIsOverThousandsOfRequests) {
  Start();
  const std::string body = Chat().dump();
  const std::string streamed = Chat({{"stream", true}, {"logprobs", true}}).dump();
  const auto serve = [&](int count) {
    for (int i = 0; i < count; ++i) {
      ASSERT_EQ(rig_->Post(kChat, i % 2 ? body : streamed).status, 200);
    }
  };
  serve(1100);  // fills what is bounded: the scripted engine keeps 1024 starts, caches fill
  const int64_t before = ResidentBytes();
  serve(2000);
  const int64_t grown = ResidentBytes() - before;
  // A leak of two kilobytes a request would show.
  EXPECT_LT(grown, 4 << 20) << grown / 2000 << " bytes a request";
  std::printf("resident memory grew by %ld KiB over 2000 requests\n", grown >> 10);
}

// The middle of the times that requests take, over one connection or over one each.
class KeepAliveTest : public EnduranceTest {
 protected:
  enum class Sending { kAtOnce, kHeadersThenBody };

  Duration Median(bool keep_alive, Sending sending) {
    const std::string head = std::string("Connection: ") + (keep_alive ? "keep-alive" : "close");
    const std::string text = GatewayRig::PostText(kChat, Chat().dump(), head + "\r\n");
    const size_t split = sending == Sending::kAtOnce ? text.size() : text.find("\r\n\r\n") + 4;
    std::vector<Duration> times;
    auto client = std::make_unique<RawClient>(rig_->http_address());
    for (int i = 0; i < 60; ++i) {
      const auto begin = steady_clock::now();
      if (!keep_alive) client = std::make_unique<RawClient>(rig_->http_address());
      client->Send(text.substr(0, split));
      if (split < text.size()) client->Send(text.substr(split));
      EXPECT_EQ(client->ReadResponse().status, 200);
      times.push_back(steady_clock::now() - begin);
    }
    std::nth_element(times.begin(), times.begin() + 30, times.end());
    return times[30];
  }
};

TEST_F(KeepAliveTest, IsNoSlowerThanAConnectionForEachRequest) {
  Start();
  for (const Sending sending : {Sending::kAtOnce, Sending::kHeadersThenBody}) {
    const Duration closed = Median(false, sending);
    const Duration kept = Median(true, sending);
    std::printf("%s: %.2f ms on a connection each, %.2f ms on one\n",
                sending == Sending::kAtOnce ? "at once" : "headers, then body",
                std::chrono::duration<double, std::milli>(closed).count(),
                std::chrono::duration<double, std::milli>(kept).count());
    // A delayed acknowledgement takes forty milliseconds.
    EXPECT_LT(kept, closed + std::chrono::milliseconds(20));
  }
}

}  // namespace
}  // namespace conclave::gateway
