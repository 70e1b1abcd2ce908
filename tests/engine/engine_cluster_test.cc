// An engine with its experts in workers, under a controller: whole services over loopback, in one
// process. Where the experts live, and what becomes of them, changes no token.
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/controller/controller_service.h"
#include "services/engine/engine.h"
#include "services/expert/worker.h"
#include "shared/rpc/server.h"
#include "tests/engine/golden_engine.h"
#include "tests/engine/test_gateway.h"
#include "tests/support/wait.h"

namespace conclave::engine {
namespace {

using conclave::testing::WaitFor;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

class EngineClusterTest : public ::testing::Test {
 protected:
  EngineClusterTest()
      : state_dir_(std::filesystem::path(::testing::TempDir()) /
                   ("engine_cluster_" + std::to_string(::getpid()) + "_" +
                    ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    controller::ControllerService::Options options;
    options.cluster.lease = milliseconds(1000);
    options.report_period = milliseconds(100);
    options.registry = &registry_;
    controller_ = *controller::ControllerService::Create(options, &clock_);
    grpc::Service* const services[] = {controller_.get()};
    server_ = *rpc::Server::Start({.name = "controller", .listen = "127.0.0.1:0"}, services);
    common_.model = std::string(CONCLAVE_SOURCE_DIR) + "/tests/golden/deepseek_v3";
    common_.numerics = "f32";
    common_.controller = server_->address();
    common_.state_dir = state_dir_;
  }
  ~EngineClusterTest() override {
    engine_.reset();
    workers_.clear();
    controller_->Shutdown();
    server_.reset();
    std::filesystem::remove_all(state_dir_);
  }

  void StartWorkers(int count) {
    for (int i = 0; i < count; ++i) {
      ExpertOptions options;
      options.name = "expert-" + std::to_string(i);
      options.listen = options.ops_listen = "127.0.0.1:0";
      options.threads = 1;
      auto worker = expert::Worker::Start(common_, options);
      ASSERT_TRUE(worker.ok()) << worker.status();
      workers_.push_back(*std::move(worker));
    }
  }

  void StartEngine(int32_t missing_expert_wait_ms) {
    EngineOptions options;
    options.listen = options.ops_listen = "127.0.0.1:0";
    options.threads = 1;
    options.missing_expert_wait_ms = missing_expert_wait_ms;
    auto engine = Engine::Start(common_, options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    EXPECT_TRUE(WaitFor([&] { return engine_->ready() || !engine_->Failure().ok(); }));
    ASSERT_TRUE(engine_->Failure().ok()) << engine_->Failure();
  }

  v1::EngineCommand StartOf(uint64_t id, size_t prompt, int64_t max_tokens) {
    return Gateway::StartOf(engine_->fingerprint(), id, model_.Prompt(prompt), max_tokens);
  }

  const GoldenModel& model_ = LoadGolden("deepseek_v3", kernels::NumericsClass::kF32);
  std::filesystem::path state_dir_;
  SteadyClock clock_;
  metrics::Registry registry_;
  std::unique_ptr<controller::ControllerService> controller_;
  std::unique_ptr<rpc::Server> server_;
  CommonOptions common_;
  std::vector<std::unique_ptr<expert::Worker>> workers_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineClusterTest, TokensAreTheSameFromOneWorkerAndFromThree) {
  for (int count : {1, 3}) {
    StartWorkers(count);
    StartEngine(2000);
    Gateway gateway(engine_->address());
    for (size_t i = 0; i < model_.num_prompts(); ++i) gateway.Write(StartOf(i, i, 32));
    for (size_t i = 0; i < model_.num_prompts(); ++i) {
      const Told& told = gateway.ReadUntilEnded(i);
      EXPECT_EQ(told.ids, model_.GreedyIds(i)) << count << " workers";
      ASSERT_TRUE(told.finished.has_value());
    }
    engine_.reset();
    workers_.clear();
  }
}

TEST_F(EngineClusterTest, AWorkerThatComesBackLosesNoToken) {
  StartWorkers(1);
  StartEngine(60'000);
  Gateway gateway(engine_->address());
  v1::EngineCommand command = StartOf(1, 1, 32);
  command.mutable_start()->mutable_sampling()->set_pace(100);
  gateway.Write(command);
  while (gateway.told[1].ids.size() < 3) ASSERT_TRUE(gateway.Read());
  workers_.clear();
  StartWorkers(1);
  EXPECT_EQ(gateway.ReadUntilEnded(1).ids, model_.GreedyIds(1));
}

TEST_F(EngineClusterTest, AWorkerThatStaysAwayFailsItsRequestsByNameAndLaterOnesWork) {
  StartWorkers(1);
  StartEngine(300);
  Gateway gateway(engine_->address());
  workers_.clear();
  gateway.Write(StartOf(1, 1, 32));
  const Told& told = gateway.ReadUntilEnded(1);
  ASSERT_EQ(told.failed.size(), 1u);
  EXPECT_EQ(told.failed[0].code(), static_cast<int>(absl::StatusCode::kUnavailable));
  EXPECT_THAT(told.failed[0].message(),
              AllOf(HasSubstr("layer"), HasSubstr("expert"), HasSubstr("no live worker")));
  StartWorkers(1);
  // Until the new worker has its experts, requests fail as the first one did.
  uint64_t id = 2;
  do {
    gateway.Write(StartOf(id, 1, 32));
  } while (gateway.ReadUntilEnded(id++).finished == std::nullopt && id < 200);
  EXPECT_EQ(gateway.told[id - 1].ids, model_.GreedyIds(1));
}

}  // namespace
}  // namespace conclave::engine
