#include "services/gateway/grpc_service.h"

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <map>

#include "conclave/v1/inference.grpc.pb.h"
#include "services/gateway/resume_token.h"
#include "services/gateway/session_call.h"
#include "shared/rpc/status.h"
#include "tests/gateway/gateway_rig.h"

namespace conclave::gateway {
namespace {

class GrpcServiceTest : public testing::Test {
 protected:
  void Start(GatewayRig::Options options = {}) {
    rig_ = std::make_unique<GatewayRig>(std::move(options), [this](const v1::StartSequence&) {
      MutexLock lock(mutex_);
      return script_;
    });
    Play({.ids = rig_->Ids("The wolf ran away."), .stop_id = 2});
    rig_->ConnectEngines();
    stub_ = v1::InferenceService::NewStub(
        grpc::CreateChannel(rig_->grpc_address(), grpc::InsecureChannelCredentials()));
  }
  void Play(Script script) {
    MutexLock lock(mutex_);
    script_ = std::move(script);
  }
  static v1::GenerateRequest Request(const std::string& id = "") {
    v1::GenerateRequest request;
    request.set_request_id(id);
    v1::ChatMessage* const message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content("Spell the word wolf.");
    return request;
  }
  struct Answer {
    std::vector<v1::GenerateEvent> events;
    grpc::Status status;
  };
  Answer Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    const auto reader = stub_->Generate(&context, request);
    Answer answer;
    v1::GenerateEvent event;
    while (reader->Read(&event)) answer.events.push_back(event);
    answer.status = reader->Finish();
    return answer;
  }
  // The field that the rich error names.
  static std::string RefusedField(const grpc::Status& status) {
    const rpc::ErrorDetails details = rpc::DetailsOf(rpc::FromGrpc(status));
    return details.fields.empty() ? "" : details.fields[0].field;
  }

  Mutex mutex_;
  Script script_ GUARDED_BY(mutex_);
  std::unique_ptr<GatewayRig> rig_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

TEST_F(GrpcServiceTest, StreamsEveryChoiceWithIndicesAndIds) {
  Start();
  v1::GenerateRequest request = Request("my-id");
  request.mutable_sampling()->set_num_choices(2);
  request.mutable_sampling()->set_seed(UINT64_MAX);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_GE(answer.events.size(), 5U);
  const v1::Started& started = answer.events[0].started();
  EXPECT_EQ(started.request_id(), "my-id");
  EXPECT_EQ(started.seed(), UINT64_MAX);
  EXPECT_EQ(started.resume_token().size(), kResumeTokenBytes);
  EXPECT_EQ(started.model(), "tales");
  EXPECT_EQ(started.fingerprint(), "tales-bf16-cpu1-aaaa");
  EXPECT_EQ(started.prompt_tokens(), started.prompt_ids_size());
  std::map<int32_t, std::vector<int32_t>> ids;
  std::map<int32_t, std::string> text;
  int finished = 0;
  for (size_t i = 1; i + 1 < answer.events.size(); ++i) {
    const v1::GenerateEvent& event = answer.events[i];
    EXPECT_EQ(event.request_id(), "my-id");
    if (event.has_tokens()) {
      auto& sofar = ids[event.tokens().choice_index()];
      EXPECT_EQ(event.tokens().token_index(), static_cast<int64_t>(sofar.size()));
      sofar.insert(sofar.end(), event.tokens().ids().begin(), event.tokens().ids().end());
      text[event.tokens().choice_index()] += event.tokens().text();
    } else {
      ASSERT_TRUE(event.has_finished());
      ++finished;
      const int32_t choice = event.finished().choice_index();
      text[choice] += event.finished().text();
      EXPECT_EQ(event.finished().reason(), v1::FINISH_REASON_STOP);
      std::vector<int32_t> all = ids[choice];
      all.push_back(2);  // the stop id counts
      EXPECT_EQ(std::vector<int32_t>(event.finished().ids().begin(), event.finished().ids().end()),
                all);
    }
  }
  EXPECT_EQ(finished, 2);
  EXPECT_EQ(text[0], "The wolf ran away.");
  EXPECT_EQ(text[1], "The wolf ran away.");
  const v1::Usage& usage = answer.events.back().usage();
  EXPECT_EQ(usage.completion_tokens(),
            static_cast<int64_t>(2 * (rig_->Ids("The wolf ran away.").size() + 1)));
  EXPECT_EQ(usage.engine_us(), 20);
  EXPECT_EQ(usage.expert_us(), 10);
  EXPECT_EQ(usage.kv_byte_seconds(), 6);
}

TEST_F(GrpcServiceTest, CompletesInOneAnswer) {
  Start();
  v1::GenerateRequest request;
  request.set_text("A wolf");
  request.mutable_sampling()->set_top_logprobs(1);
  grpc::ClientContext context;
  v1::CompleteResponse response;
  const grpc::Status status = stub_->Complete(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.choices_size(), 1);
  EXPECT_EQ(response.choices(0).text(), "The wolf ran away.");
  EXPECT_EQ(response.choices(0).reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(response.choices(0).ids_size(), response.choices(0).logprobs_size() + 1);
  EXPECT_FALSE(response.choices(0).logprobs(0).chosen().token().empty());
  EXPECT_EQ(response.choices(0).logprobs(0).top_size(), 1);
  EXPECT_FALSE(response.started().request_id().empty());
  EXPECT_GT(response.usage().prompt_tokens(), 0);
}

TEST_F(GrpcServiceTest, EndsAtAStopStringAcrossTokens) {
  Start();
  Play({.ids = rig_->Ids("The wolf ran away. And more, much more"), .hang_after = true});
  v1::GenerateRequest request = Request();
  request.mutable_sampling()->add_stop("ran aw");
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  std::string text;
  int64_t tokens = 0;
  for (const v1::GenerateEvent& event : answer.events) {
    text += event.tokens().text() + event.finished().text();
    tokens += event.tokens().ids_size();
    if (event.has_finished()) {
      EXPECT_EQ(event.finished().stop(), "ran aw");
      EXPECT_EQ(event.finished().ids_size(), tokens);
    }
  }
  EXPECT_EQ(text, "The wolf ");
  EXPECT_EQ(answer.events.back().usage().completion_tokens(), tokens);
  EXPECT_LE(tokens, static_cast<int64_t>(rig_->Ids("The wolf ran away.").size()));
  EXPECT_TRUE(rig_->engine().NextCancel().has_value());
}

TEST_F(GrpcServiceTest, CancelsByIdWithAFinishEvent) {
  Start();
  Play({.ids = rig_->Ids("The wolf"), .hang_after = true});
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, Request("stop-me"));
  v1::GenerateEvent event;
  ASSERT_TRUE(reader->Read(&event));
  while (!event.has_tokens()) ASSERT_TRUE(reader->Read(&event));
  v1::CancelRequest cancel;
  cancel.set_request_id("stop-me");
  v1::CancelResponse cancelled;
  grpc::ClientContext cancel_context;
  EXPECT_TRUE(stub_->Cancel(&cancel_context, cancel, &cancelled).ok());
  bool finished = false;
  while (reader->Read(&event)) {
    if (event.has_finished()) {
      finished = true;
      EXPECT_EQ(event.finished().reason(), v1::FINISH_REASON_CANCELLED);
    }
  }
  EXPECT_TRUE(finished);
  EXPECT_TRUE(event.has_usage());
  EXPECT_TRUE(reader->Finish().ok());
  grpc::ClientContext again;
  EXPECT_EQ(stub_->Cancel(&again, cancel, &cancelled).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(GrpcServiceTest, AClientThatCancelsItsCallFreesTheEngine) {
  Start();
  Play({.ids = rig_->Ids("The wolf"), .hang_after = true});
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, Request());
  v1::GenerateEvent event;
  ASSERT_TRUE(reader->Read(&event));
  context.TryCancel();
  EXPECT_TRUE(rig_->engine().NextCancel().has_value());
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_running() == 0; }));
}

TEST_F(GrpcServiceTest, ASessionRunsManyRequestsAndOutlivesTheirFailures) {
  Start();
  grpc::ClientContext context;
  const auto stream = stub_->Session(&context);
  const auto send = [&](const v1::GenerateRequest& request) {
    v1::SessionRequest message;
    *message.mutable_generate() = request;
    ASSERT_TRUE(stream->Write(message));
  };
  for (int i = 0; i < 10; ++i) send(Request("r" + std::to_string(i)));
  send(Request(""));  // needs an id
  v1::GenerateRequest bad = Request("bad");
  bad.mutable_sampling()->set_temperature(9);
  send(bad);
  v1::SessionRequest cancel;
  cancel.mutable_cancel()->set_request_id("nobody");
  ASSERT_TRUE(stream->Write(cancel));
  ASSERT_TRUE(stream->Write(v1::SessionRequest()));
  stream->WritesDone();
  std::map<std::string, std::string> text;
  std::map<std::string, int32_t> failed;
  int done = 0;
  v1::SessionEvent event;
  while (stream->Read(&event)) {
    if (event.has_failed()) {
      failed[event.request_id()] = event.failed().code();
      continue;
    }
    EXPECT_EQ(event.generate().request_id(), event.request_id());
    text[event.request_id()] +=
        event.generate().tokens().text() + event.generate().finished().text();
    done += event.generate().has_usage();
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(done, 10);
  EXPECT_EQ(text.size(), 10U);
  for (const auto& [id, answer] : text) EXPECT_EQ(answer, "The wolf ran away.") << id;
  EXPECT_EQ(failed["bad"], grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(failed[""], grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(failed["nobody"], grpc::StatusCode::NOT_FOUND);
}

TEST_F(GrpcServiceTest, ASessionThatGathersGetsTheSameEventsInFewerMessages) {
  Start();
  grpc::ClientContext context;
  const auto stream = stub_->Session(&context);
  v1::SessionRequest first;
  first.set_gather(true);
  for (int i = 0; i < 10; ++i) {
    *first.add_more()->mutable_generate() = Request("r" + std::to_string(i));
  }
  first.add_more();  // no action
  first.add_more()->mutable_cancel()->set_request_id("nobody");
  ASSERT_TRUE(stream->Write(first));
  v1::SessionRequest second;  // gathers still
  *second.mutable_generate() = Request("last");
  *second.add_more()->mutable_generate() = Request("");
  ASSERT_TRUE(stream->Write(second));
  stream->WritesDone();
  std::map<std::string, std::string> text;
  std::map<std::string, int32_t> failed;
  int messages = 0, events = 0, done = 0;
  const auto take = [&](const v1::SessionEvent& event) {
    ++events;
    if (event.has_failed()) {
      failed[event.request_id()] += event.failed().code();
      return;
    }
    EXPECT_EQ(event.generate().request_id(), event.request_id());
    text[event.request_id()] +=
        event.generate().tokens().text() + event.generate().finished().text();
    done += event.generate().has_usage();
  };
  v1::SessionEvent message;
  while (stream->Read(&message)) {
    ++messages;
    take(message);
    for (const v1::SessionEvent& event : message.more()) {
      EXPECT_TRUE(event.more().empty());
      take(event);
    }
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(done, 11);
  EXPECT_EQ(text.size(), 11U);
  for (const auto& [id, answer] : text) EXPECT_EQ(answer, "The wolf ran away.") << id;
  // No action, and no id.
  EXPECT_EQ(failed[""], 2 * grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(failed["nobody"], grpc::StatusCode::NOT_FOUND);
  // The two failures that the first message brings about at once share one at least.
  EXPECT_LT(messages, events);
}

TEST_F(GrpcServiceTest, ASessionThatBreaksCancelsItsRequests) {
  Start();
  Play({.ids = rig_->Ids("The"), .hang_after = true});
  grpc::ClientContext context;
  const auto stream = stub_->Session(&context);
  for (const char* id : {"a", "b"}) {
    v1::SessionRequest message;
    *message.mutable_generate() = Request(id);
    ASSERT_TRUE(stream->Write(message));
    ASSERT_TRUE(rig_->engine().NextStart().has_value());
  }
  context.TryCancel();
  EXPECT_TRUE(rig_->engine().NextCancel().has_value());
  EXPECT_TRUE(rig_->engine().NextCancel().has_value());
  v1::SessionEvent event;
  while (stream->Read(&event)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GrpcServiceTest, ASessionIsIdleWhileItHasNoRequest) {
  Start();
  Play({.ids = rig_->Ids("The"), .hang_after = true});
  const h2::Metadata metadata;
  const auto call = MakeSessionCall(&rig_->frontend(), {.metadata = metadata, .deadline = {}});
  v1::SessionRequest nothing;
  call->OnMessage(nothing.SerializeAsString());
  EXPECT_TRUE(call->idle());
  v1::SessionRequest message;
  *message.mutable_generate() = Request("a");
  call->OnMessage(message.SerializeAsString());
  EXPECT_FALSE(call->idle());
  ASSERT_TRUE(rig_->engine().NextStart().has_value());
  message.mutable_cancel()->set_request_id("a");
  call->OnMessage(message.SerializeAsString());
  EXPECT_TRUE(GatewayRig::WaitFor([&] { return call->idle(); }));
}

TEST_F(GrpcServiceTest, RefusesBadRequestsWithRichErrors) {
  Start();
  EXPECT_EQ(RefusedField(Generate(v1::GenerateRequest()).status), "prompt");
  v1::GenerateRequest request = Request();
  request.mutable_sampling()->set_temperature(std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(RefusedField(Generate(request).status), "sampling.temperature");
  request = Request();
  request.mutable_sampling()->set_num_choices(1'000'000);
  EXPECT_EQ(RefusedField(Generate(request).status), "sampling.num_choices");
  request = Request();
  request.mutable_chat()->set_template_kwargs_json("[1]");
  EXPECT_EQ(RefusedField(Generate(request).status), "chat.template_kwargs_json");
  request = Request();
  request.mutable_chat()->mutable_messages(0)->set_role("robot");
  EXPECT_EQ(RefusedField(Generate(request).status), "chat.messages[0].role");
  request = Request();
  request.set_qos(static_cast<v1::QosClass>(77));
  const grpc::Status unknown_class = Generate(request).status;
  EXPECT_EQ(RefusedField(unknown_class), "qos");
  EXPECT_NE(unknown_class.error_message().find("77"), std::string::npos);
  request = Request();
  request.mutable_sampling()->set_pace(1e-300);
  EXPECT_EQ(RefusedField(Generate(request).status), "sampling.pace");
  request = Request();
  request.mutable_sampling()->set_top_p(1.1F);
  EXPECT_EQ(Generate(request).status.error_message(),
            "sampling.top_p: expected a number in (0, 1], found 1.1");
  request = Request();
  request.mutable_tokens()->add_ids(4096);
  EXPECT_EQ(RefusedField(Generate(request).status), "prompt");
  request.mutable_tokens()->clear_ids();
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  for (int i = 0; i < 64; ++i) request.mutable_tokens()->add_ids(5);
  const rpc::ErrorDetails too_long = rpc::DetailsOf(rpc::FromGrpc(Generate(request).status));
  EXPECT_EQ(too_long.reason, "CONTEXT_LENGTH_EXCEEDED");
  EXPECT_EQ(too_long.metadata.at("context_tokens"), "64");
  request = Request();
  request.set_model("gpt-4");
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(Generate(Request()).status.ok());
}

TEST_F(GrpcServiceTest, PassesDeadlineAndTraceToTheEngine) {
  Start();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  context.AddMetadata("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  context.AddMetadata("x-request-id", "from-metadata");
  v1::CompleteResponse response;
  ASSERT_TRUE(stub_->Complete(&context, Request(), &response).ok());
  const auto start = rig_->engine().NextStart();
  ASSERT_TRUE(start.has_value());
  EXPECT_EQ(start->traceparent(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  EXPECT_EQ(start->request_id(), "from-metadata");
  EXPECT_GT(start->remaining_ms(), 0);
  EXPECT_LE(start->remaining_ms(), 21'000);  // gRPC rounds timeouts up on the wire
}

TEST_F(GrpcServiceTest, TokenizesAndBack) {
  Start();
  v1::TokenizeRequest request;
  request.set_text("The wolf<|user|>ran.");
  v1::TokenizeResponse parsed;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->Tokenize(&first, request, &parsed).ok());
  EXPECT_EQ(parsed.max_context(), 64);
  request.set_without_special_tokens(true);
  v1::TokenizeResponse plain;
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->Tokenize(&second, request, &plain).ok());
  EXPECT_GT(plain.ids_size(), parsed.ids_size());
  v1::DetokenizeRequest back;
  *back.mutable_ids() = plain.ids();
  v1::DetokenizeResponse text;
  grpc::ClientContext third;
  ASSERT_TRUE(stub_->Detokenize(&third, back, &text).ok());
  EXPECT_EQ(text.text(), "The wolf<|user|>ran.");
  back.add_ids(-1);
  grpc::ClientContext fourth;
  EXPECT_EQ(RefusedField(stub_->Detokenize(&fourth, back, &text)), "ids");
}

TEST_F(GrpcServiceTest, ListsModels) {
  Start({.num_engines = 2});
  v1::ListModelsResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->ListModels(&context, v1::ListModelsRequest(), &response).ok());
  ASSERT_EQ(response.models_size(), 1);
  EXPECT_EQ(response.models(0).name(), "tales");
  EXPECT_EQ(response.models(0).max_context(), 64);
  EXPECT_EQ(response.models(0).num_engines(), 2);
}

}  // namespace
}  // namespace conclave::gateway
