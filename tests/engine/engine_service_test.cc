// EngineService over a real gRPC server and a real model, as gateways see it.
#include "services/engine/engine_service.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shared/rpc/server.h"
#include "shared/rpc/status.h"
#include "tests/engine/golden_engine.h"
#include "tests/engine/test_gateway.h"

namespace conclave::engine {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

constexpr char kFingerprint[] = "00112233";

v1::EngineCommand StartOf(uint64_t id, const std::vector<int32_t>& prompt, int64_t max_tokens) {
  return Gateway::StartOf(kFingerprint, id, prompt, max_tokens);
}

class EngineServiceTest : public testing::Test {
 protected:
  void Start(const EngineService::Options& options = {}, bool open = true) {
    service_ = std::make_unique<EngineService>(options, &engine_.metrics, &clock_);
    Stepper::Options stepper_options;
    stepper_options.scheduler.context_tokens = kContext;
    stepper_options.scheduler.max_batch = 64;
    stepper_options.scheduler.max_waiting = 4;
    stepper_options.vocab_size = vocab_size();
    stepper_ =
        std::make_unique<Stepper>(stepper_options, Stepper::Parts{.forward = &engine_.forward,
                                                                  .dispatch = &engine_.dispatch,
                                                                  .cache = &engine_.cache,
                                                                  .context = &engine_.context,
                                                                  .sink = service_.get(),
                                                                  .metrics = &engine_.metrics,
                                                                  .clock = &clock_});
    loop_ =
        std::make_unique<StepLoop>(StepLoop::Options{}, stepper_.get(), &engine_.cache, &clock_);
    if (open) Open();
    rpc::ServerOptions server_options;
    server_options.name = "engine";
    server_options.listen = "127.0.0.1:0";
    server_options.secret = options.secret;
    grpc::Service* const services[] = {service_.get()};
    server_ = *rpc::Server::Start(server_options, services);
  }
  void Open() {
    service_->Open({.fingerprint = kFingerprint,
                    .served_name = "golden",
                    .numerics_class = "f32",
                    .system_fingerprint = "golden-f32-cpu1-0011"},
                   {.vocab_size = vocab_size(), .context_tokens = kContext}, loop_.get());
  }
  void TearDown() override {
    server_->Drain(std::chrono::milliseconds(0));
    server_.reset();
    loop_->Stop();
    EXPECT_EQ(engine_.cache.used_blocks(), 0);
  }

  int32_t vocab_size() const { return model_.checkpoint->config().vocab_size; }
  std::string address() const { return server_->address(); }

  static constexpr int64_t kContext = 512;
  const GoldenModel& model_ = LoadGolden("deepseek_v3", kernels::NumericsClass::kF32);
  GoldenEngine engine_{model_, {.num_blocks = 1024}};
  SteadyClock clock_;
  std::unique_ptr<EngineService> service_;
  std::unique_ptr<Stepper> stepper_;
  std::unique_ptr<StepLoop> loop_;
  std::unique_ptr<rpc::Server> server_;
};

TEST_F(EngineServiceTest, SaysWhatItServesAndStreamsTokens) {
  Start();
  Gateway gateway(address());
  gateway.Write(StartOf(1, model_.Prompt(1), 32));
  const Told& told = gateway.ReadUntilEnded(1);
  EXPECT_EQ(told.ids, model_.GreedyIds(1));
  ASSERT_TRUE(told.finished.has_value());
  EXPECT_EQ(told.finished->reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_FALSE(told.finished->has_stop_id());
  EXPECT_GT(told.finished->engine_us(), 0);
  ASSERT_TRUE(gateway.hello.has_value());
  EXPECT_EQ(gateway.hello->fingerprint(), kFingerprint);
  EXPECT_EQ(gateway.hello->served_name(), "golden");
  EXPECT_EQ(gateway.hello->numerics_class(), "f32");
  EXPECT_EQ(gateway.hello->context_tokens(), kContext);
  EXPECT_EQ(gateway.hello->vocab_size(), vocab_size());
  EXPECT_EQ(gateway.hello->system_fingerprint(), "golden-f32-cpu1-0011");
  EXPECT_TRUE(gateway.Finish().ok());
}

TEST_F(EngineServiceTest, PassesSamplingOn) {
  Start();
  const std::vector<int32_t> greedy = model_.GreedyIds(1);
  Gateway gateway(address());
  v1::EngineCommand stopped = StartOf(1, model_.Prompt(1), 32);
  stopped.mutable_start()->add_stop_ids(greedy[4]);
  stopped.mutable_start()->mutable_sampling()->set_top_logprobs(2);
  gateway.Write(stopped);
  v1::EngineCommand biased = StartOf(2, model_.Prompt(1), 3);
  biased.mutable_start()->mutable_sampling()->add_bias_ids(17);
  biased.mutable_start()->mutable_sampling()->add_bias_values(1000);
  gateway.Write(biased);
  v1::EngineCommand drawn = StartOf(3, model_.Prompt(1), 12);
  drawn.mutable_start()->mutable_sampling()->set_temperature(1);
  drawn.mutable_start()->set_seed(99);
  gateway.Write(drawn);
  drawn.mutable_start()->set_sequence_id(4);
  drawn.mutable_start()->set_qos(v1::QOS_CLASS_BATCH);
  gateway.Write(drawn);
  drawn.mutable_start()->set_sequence_id(5);
  drawn.mutable_start()->set_choice_index(1);
  gateway.Write(drawn);
  for (uint64_t id = 1; id <= 5; ++id) gateway.ReadUntilEnded(id);

  EXPECT_EQ(gateway.told[1].finished->reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(gateway.told[1].finished->stop_id(), greedy[4]);
  EXPECT_EQ(gateway.told[1].logprobs.size(), gateway.told[1].ids.size());
  for (const v1::EngineLogprobs& logprobs : gateway.told[1].logprobs) {
    ASSERT_EQ(logprobs.top_ids_size(), 2);
    EXPECT_EQ(logprobs.top_values(0), logprobs.chosen());
  }
  EXPECT_EQ(gateway.told[2].ids, std::vector<int32_t>(3, 17));
  EXPECT_EQ(gateway.told[3].ids, gateway.told[4].ids);
  EXPECT_NE(gateway.told[3].ids, gateway.told[5].ids);
}

TEST_F(EngineServiceTest, TwoGatewaysAtOnceUseTheSameIds) {
  Start();
  Gateway one(address()), two(address());
  for (uint64_t id = 0; id < 3; ++id) {
    one.Write(StartOf(id, model_.Prompt(id), 32));
    two.Write(StartOf(id, model_.Prompt(2 - id), 32));
  }
  for (uint64_t id = 0; id < 3; ++id) {
    EXPECT_EQ(one.ReadUntilEnded(id).ids, model_.GreedyIds(id));
    EXPECT_EQ(two.ReadUntilEnded(id).ids, model_.GreedyIds(2 - id));
  }
}

TEST_F(EngineServiceTest, BadInputFailsItsSequenceAlone) {
  Start();
  Gateway gateway(address());
  v1::EngineCommand good = StartOf(1, model_.Prompt(1), 32);
  good.mutable_start()->mutable_sampling()->set_pace(200);  // runs beside all that follows
  gateway.Write(good);
  struct Case {
    std::function<void(v1::StartSequence&)> spoil;
    absl::StatusCode code;
    std::string named;
  };
  const std::vector<Case> cases = {
      {[](auto& s) { s.clear_prompt_ids(); }, absl::StatusCode::kInvalidArgument,
       "prompt is empty"},
      {[](auto& s) { s.add_prompt_ids(-1); }, absl::StatusCode::kInvalidArgument, "-1"},
      {[this](auto& s) { s.add_prompt_ids(vocab_size()); }, absl::StatusCode::kInvalidArgument,
       "vocabulary"},
      {[](auto& s) {
         for (int i = 0; i < kContext; ++i) s.add_prompt_ids(1);
       },
       absl::StatusCode::kInvalidArgument, "context 512"},
      {[](auto& s) { s.set_fingerprint("other"); }, absl::StatusCode::kFailedPrecondition, "other"},
      {[](auto& s) { s.set_max_tokens(0); }, absl::StatusCode::kInvalidArgument, "max_tokens"},
      {[](auto& s) { s.set_choice_index(-2); }, absl::StatusCode::kInvalidArgument, "choice_index"},
      {[](auto& s) { s.set_remaining_ms(-1); }, absl::StatusCode::kDeadlineExceeded,
       "remaining_ms"},
      {[](auto& s) { s.set_tenant_weight(-1); }, absl::StatusCode::kInvalidArgument,
       "tenant_weight"},
      {[](auto& s) { s.set_qos(static_cast<v1::QosClass>(77)); },
       absl::StatusCode::kInvalidArgument, "found 77"},
      {[](auto& s) {
         s.mutable_sampling()->set_temperature(std::numeric_limits<float>::quiet_NaN());
       },
       absl::StatusCode::kInvalidArgument, "temperature"},
      {[](auto& s) { s.mutable_sampling()->add_bias_ids(1); }, absl::StatusCode::kInvalidArgument,
       "1 bias_ids and 0"},
      {[](auto& s) { s.clear_sampling(); }, absl::StatusCode::kInvalidArgument, "top_p"},
  };
  uint64_t id = 100;
  for (const Case& bad : cases) {
    v1::EngineCommand command = StartOf(++id, model_.Prompt(1), 4);
    bad.spoil(*command.mutable_start());
    gateway.Write(command);
    const Told& told = gateway.ReadUntilEnded(id);
    ASSERT_EQ(told.failed.size(), 1u) << bad.named;
    EXPECT_EQ(told.failed[0].code(), static_cast<int>(bad.code)) << told.failed[0].message();
    EXPECT_THAT(told.failed[0].message(), HasSubstr(bad.named));
  }
  EXPECT_EQ(gateway.ReadUntilEnded(1).ids, model_.GreedyIds(1));
  EXPECT_THAT(engine_.registry.Expose(),
              HasSubstr("conclave_errors_total{code=\"FAILED_PRECONDITION\"} 1"));
}

TEST_F(EngineServiceTest, ADuplicateIdIsRefusedAndTheFirstGoesOn) {
  Start();
  Gateway gateway(address());
  v1::EngineCommand first = StartOf(1, model_.Prompt(1), 32);
  first.mutable_start()->mutable_sampling()->set_pace(200);
  gateway.Write(first);
  gateway.Write(StartOf(1, model_.Prompt(2), 4));
  while (gateway.told[1].failed.empty()) ASSERT_TRUE(gateway.Read());
  EXPECT_EQ(gateway.told[1].failed[0].code(), static_cast<int>(absl::StatusCode::kAlreadyExists));
  while (!gateway.told[1].finished.has_value()) ASSERT_TRUE(gateway.Read());
  EXPECT_EQ(gateway.told[1].ids, model_.GreedyIds(1));
  // Free again afterwards.
  gateway.told.clear();
  gateway.Write(StartOf(1, model_.Prompt(2), 4));
  EXPECT_EQ(gateway.ReadUntilEnded(1).ids.size(), 4u);
}

TEST_F(EngineServiceTest, CancelAnswersWithUsage) {
  Start();
  Gateway gateway(address());
  v1::EngineCommand command = StartOf(1, model_.Prompt(1), 400);
  command.mutable_start()->mutable_sampling()->set_pace(100);
  gateway.Write(command);
  while (gateway.told[1].ids.empty()) ASSERT_TRUE(gateway.Read());
  gateway.Cancel(1);
  gateway.Cancel(1);
  gateway.Cancel(4711);
  const Told& told = gateway.ReadUntilEnded(1);
  ASSERT_TRUE(told.finished.has_value());
  EXPECT_EQ(told.finished->reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_TRUE(loop_->WaitUntilEmpty(seconds(10)));
}

TEST_F(EngineServiceTest, ALostStreamFreesItsSequencesAndNoOthers) {
  Start();
  Gateway stays(address());
  auto lost = std::make_unique<Gateway>(address());
  v1::EngineCommand command = StartOf(1, model_.Prompt(2), 400);
  command.mutable_start()->mutable_sampling()->set_pace(50);
  lost->Write(command);
  while (lost->told[1].ids.empty()) ASSERT_TRUE(lost->Read());
  command.mutable_start()->set_max_tokens(20);
  stays.Write(command);
  lost->Drop();
  EXPECT_EQ(stays.ReadUntilEnded(1).ids.size(), 20u);
  EXPECT_TRUE(loop_->WaitUntilEmpty(seconds(10)));  // long before 400 tokens at 50 a second
}

TEST_F(EngineServiceTest, ClosingTheWritingSideEndsTheStream) {
  Start();
  Gateway gateway(address());
  v1::EngineCommand command = StartOf(1, model_.Prompt(2), 400);
  command.mutable_start()->mutable_sampling()->set_pace(50);
  gateway.Write(command);
  EXPECT_TRUE(gateway.Finish().ok());
  EXPECT_TRUE(loop_->WaitUntilEmpty(seconds(10)));
}

TEST_F(EngineServiceTest, AnEmptyCommandEndsTheStream) {
  Start();
  Gateway gateway(address());
  gateway.Write(v1::EngineCommand());
  const grpc::Status status = gateway.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(EngineServiceTest, RefusesBeforeTheModelIsLoaded) {
  Start({}, /*open=*/false);
  Gateway early(address());
  EXPECT_EQ(early.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  Open();
  Gateway gateway(address());
  gateway.Write(StartOf(1, model_.Prompt(1), 2));
  EXPECT_EQ(gateway.ReadUntilEnded(1).ids.size(), 2u);
}

TEST_F(EngineServiceTest, DemandsTheClusterSecret) {
  Start({.secret = rpc::ClusterSecret("sixteen bytes or more"), .cluster = {}});
  Gateway stranger(address());
  EXPECT_EQ(stranger.Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  Gateway friendly(address(), rpc::ClusterSecret("sixteen bytes or more"));
  friendly.Write(StartOf(1, model_.Prompt(1), 2));
  EXPECT_EQ(friendly.ReadUntilEnded(1).ids.size(), 2u);
}

TEST_F(EngineServiceTest, TellsWhatItReachesFirstAndWhenItChanges) {
  Start();
  service_->SetMissing({{1, 3}});
  Gateway gateway(address());
  while (!gateway.reach) ASSERT_TRUE(gateway.Read());
  EXPECT_TRUE(gateway.hello.has_value());
  EXPECT_EQ(gateway.messages, 1);  // with the hello
  ASSERT_EQ(gateway.reach->missing_size(), 1);
  EXPECT_EQ(gateway.reach->missing(0).layer(), 1);
  EXPECT_EQ(gateway.reach->missing(0).experts(0), 3);
  service_->SetMissing({});
  while (gateway.reach->missing_size() > 0) ASSERT_TRUE(gateway.Read());
  // And again while the loop turns, so that silence means that it does not.
  for (int i = 0; i < 3; ++i) {
    gateway.reach.reset();
    service_->OnTurn();
    ASSERT_TRUE(gateway.Read());
    EXPECT_TRUE(gateway.reach.has_value());
  }
  gateway.Write(StartOf(1, model_.Prompt(1), 2));
  EXPECT_EQ(gateway.ReadUntilEnded(1).ids.size(), 2u);
}

TEST_F(EngineServiceTest, RefusesAnotherClustersGateway) {
  Start({.secret = {}, .cluster = std::make_shared<rpc::ClusterId>("east")});
  Gateway stranger(address(), {}, rpc::ClusterId("west"));
  EXPECT_TRUE(rpc::IsOtherCluster(rpc::FromGrpc(stranger.Finish())));
  Gateway own(address(), {}, rpc::ClusterId("east"));
  own.Write(StartOf(1, model_.Prompt(1), 2));
  EXPECT_EQ(own.ReadUntilEnded(1).ids.size(), 2u);
}

TEST_F(EngineServiceTest, TheQueueIsBounded) {
  Start();
  Gateway gateway(address());
  for (uint64_t id = 0; id < 64 + 4 + 8; ++id) {
    v1::EngineCommand command = StartOf(id, {1}, 400);
    command.mutable_start()->mutable_sampling()->set_pace(1);
    gateway.Write(command);
  }
  const auto refused = [&] {
    return std::count_if(gateway.told.begin(), gateway.told.end(),
                         [](const auto& one) { return one.second.ended(); });
  };
  while (refused() < 8) ASSERT_TRUE(gateway.Read());
  for (const auto& [id, told] : gateway.told) {
    if (told.failed.empty()) continue;
    EXPECT_EQ(told.failed[0].code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
    EXPECT_THAT(told.failed[0].message(), HasSubstr("try again later"));
  }
  EXPECT_EQ(refused(), 8);
}

TEST_F(EngineServiceTest, AGatewayThatDoesNotReadIsCutOffAndStallsNobody) {
  Start({.secret = {}, .cluster = {}, .max_unsent_events = 32});
  Gateway deaf(address()), good(address());
  for (uint64_t id = 0; id < 64;
       ++id) {  // some 30 MB of events, far more than the window of a stream
    v1::EngineCommand command = StartOf(id, model_.Prompt(1), 450);
    command.mutable_start()->mutable_sampling()->set_top_logprobs(128);
    deaf.Write(command);
  }
  good.Write(StartOf(1, model_.Prompt(1), 32));
  EXPECT_EQ(good.ReadUntilEnded(1).ids, model_.GreedyIds(1));
  EXPECT_TRUE(loop_->WaitUntilEmpty(seconds(60)));
  EXPECT_FALSE(deaf.Finish().ok());
  for (const auto& [id, told] : deaf.told) EXPECT_FALSE(told.finished.has_value());
}

}  // namespace
}  // namespace conclave::engine
