#include "services/expert/worker.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/engine/dispatch/remote_dispatch.h"
#include "shared/base/http_get.h"
#include "shared/placement/member.h"
#include "tests/expert/worker_fixture.h"

namespace conclave::expert {
namespace {

using ::testing::HasSubstr;

// A gateway as far as the topology goes.
class Observer {
 public:
  explicit Observer(const std::string& controller) {
    placement::Membership::Options options;
    options.controller = controller;
    options.name = "gateway";
    options.kind = placement::MemberKind::kGateway;
    options.address = "127.0.0.1:1";
    options.status = [] { return placement::MemberStatus(); };
    membership_ = *placement::Membership::Start(std::move(options));
  }
  std::shared_ptr<const placement::Topology> topology() const { return membership_->topology(); }

 private:
  std::unique_ptr<placement::Membership> membership_;
};

// One token at the first experts of the first MoE layer: whether it was served, or why not.
absl::Status CallOnce(engine::RemoteDispatch& dispatch, const weights::ModelConfig& config,
                      int32_t layer) {
  std::vector<std::byte> row(config.hidden * 2), results(row.size() * config.moe.top_k);
  std::vector<int32_t> experts(config.moe.top_k);
  for (int32_t i = 0; i < config.moe.top_k; ++i) experts[i] = i;
  const std::vector<engine::RowOrigin> origins(1);
  dispatch.Begin({.layer = layer,
                  .num_tokens = 1,
                  .hidden = config.hidden,
                  .top_k = config.moe.top_k,
                  .row_type = kernels::RowType::kBf16,
                  .rows = row.data(),
                  .expert_ids = experts,
                  .results = results.data(),
                  .origins = origins,
                  .traceparent = {}});
  const engine::ExpertOutcome outcome = dispatch.Finish();
  return outcome.failed.empty() ? absl::OkStatus() : outcome.failed.front().status;
}

// Every expert of a layer, asked by several tokens: the rows that came back, or why they did not.
absl::StatusOr<std::vector<std::byte>> CallAll(engine::RemoteDispatch& dispatch,
                                               const weights::ModelConfig& config, int32_t layer) {
  const int64_t tokens = config.moe.num_experts;
  std::vector<std::byte> rows(tokens * config.hidden * 2);
  for (size_t i = 0; i < rows.size(); i += 2) {
    rows[i] = static_cast<std::byte>(i * 7);
    rows[i + 1] = std::byte{0x3f};  // values around one
  }
  std::vector<int32_t> experts(tokens * config.moe.top_k);
  for (size_t i = 0; i < experts.size(); ++i) {
    experts[i] = static_cast<int32_t>((i / config.moe.top_k + i % config.moe.top_k) %
                                      config.moe.num_experts);
  }
  std::vector<std::byte> results(experts.size() * config.hidden * 2);
  const std::vector<engine::RowOrigin> origins(tokens);
  dispatch.Begin({.layer = layer,
                  .num_tokens = tokens,
                  .hidden = config.hidden,
                  .top_k = config.moe.top_k,
                  .row_type = kernels::RowType::kBf16,
                  .rows = rows.data(),
                  .expert_ids = experts,
                  .results = results.data(),
                  .origins = origins,
                  .traceparent = {}});
  const engine::ExpertOutcome outcome = dispatch.Finish();
  if (!outcome.failed.empty()) return outcome.failed.front().status;
  return results;
}

// conclave-expert as a process of its own.
class Process {
 public:
  explicit Process(const std::vector<std::string>& arguments) {
    std::vector<char*> argv;
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], nullptr, nullptr, argv.data(), environ), 0);
  }
  ~Process() {
    Signal(SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  void Signal(int signal) { EXPECT_EQ(kill(pid_, signal), 0); }
  // Returns when all of its threads have stopped.
  void Freeze() {
    Signal(SIGSTOP);
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, WUNTRACED), pid_);
    EXPECT_TRUE(WIFSTOPPED(status));
  }

 private:
  pid_t pid_ = 0;
};

TEST_F(WorkerTest, TwoWorkersShareTheExpertsAndServeThem) {
  const auto first = StartWorker("expert-0"), second = StartWorker("expert-1");
  EXPECT_EQ(first->fingerprint(), identity_.fingerprint);
  Engine engine(identity_, controller_.address());
  ASSERT_TRUE(WaitFor([&] { return engine.dispatch().Missing().empty(); }));
  const placement::ModelTopology* model = engine.topology()->Find(identity_.fingerprint);
  ASSERT_NE(model, nullptr);
  ASSERT_EQ(model->workers.size(), 2u);
  EXPECT_EQ(model->workers[0].serve.size() + model->workers[1].serve.size(),
            identity_.AllExperts().size());
  EXPECT_GT(model->workers[0].serve.size(), 0u);
  EXPECT_GT(model->workers[1].serve.size(), 0u);
}

TEST_F(WorkerTest, ServesOnWithoutAControllerAndAfterItsRestart) {
  const auto worker = StartWorker("expert-0");
  Engine engine(identity_, controller_.address());
  ASSERT_TRUE(WaitFor([&] { return engine.dispatch().Missing().empty(); }));
  controller_.Stop();
  EXPECT_TRUE(engine.dispatch().Missing().empty());
  const uint64_t term = engine.topology()->epoch.term;
  controller_.Start(controller_.address());
  // Until the new controller knows all members again, and longer, no expert goes missing.
  const auto complete = [&] {
    EXPECT_TRUE(engine.dispatch().Missing().empty());
    const auto topology = engine.topology();
    const placement::ModelTopology* model = topology->Find(identity_.fingerprint);
    return topology->epoch.term > term && model != nullptr && model->Missing().empty();
  };
  EXPECT_TRUE(WaitFor(complete));
}

TEST_F(WorkerTest, ARestartedWorkerLoadsItsExpertsFromTheTopologyOnDisk) {
  auto worker = StartWorker("expert-0");
  Engine engine(identity_, controller_.address());
  ASSERT_TRUE(WaitFor([&] { return engine.dispatch().Missing().empty(); }));
  controller_.Stop();
  const std::string address = worker->address();
  worker.reset();
  ASSERT_TRUE(WaitFor([&] { return !engine.dispatch().Missing().empty(); }));
  ExpertOptions options = Options("expert-0");
  options.listen = address;
  auto restarted = Worker::Start(Common(), options);
  ASSERT_TRUE(restarted.ok()) << restarted.status();
  EXPECT_TRUE(WaitFor([&] { return engine.dispatch().Missing().empty(); }));
}

TEST_F(WorkerTest, AWorkerThatLeavesHandsItsExpertsOver) {
  const auto first = StartWorker("expert-0");
  const auto second = StartWorker("expert-1");
  Engine engine(identity_, controller_.address());
  ASSERT_TRUE(WaitFor([&] { return engine.dispatch().Missing().empty(); }));
  first->Drain(milliseconds(5000));
  EXPECT_TRUE(WaitFor([&] {
    const placement::ModelTopology* model = engine.topology()->Find(identity_.fingerprint);
    const placement::TopologyWorker* left = model->FindWorker("expert-1");
    return left != nullptr && left->serve == identity_.AllExperts() &&
           engine.dispatch().Missing().empty();
  }));
}

// Calls go on all the while: none fails, and all rows stay the same.
TEST_F(WorkerTest, ADrainLosesNoRow) {
  auto first = StartWorker("expert-0");
  const auto second = StartWorker("expert-1");
  Engine engine(identity_, controller_.address(), kPatience);
  const auto checkpoint = OpenGolden("olmoe");
  const int32_t layer = identity_.moe_layers.front();
  ASSERT_TRUE(WaitFor([&] { return engine.dispatch().Missing().empty(); }));
  const auto expected = CallAll(engine.dispatch(), checkpoint->config(), layer);
  ASSERT_TRUE(expected.ok()) << expected.status();
  for (int round = 0; round < 3; ++round) {
    std::atomic<bool> drained{false};
    std::thread drain([&] {
      first->Drain(std::chrono::seconds(20));
      first.reset();
      drained = true;
    });
    int calls = 0;
    for (int after = 0; after < 20; after += drained ? 1 : 0, ++calls) {
      const auto rows = CallAll(engine.dispatch(), checkpoint->config(), layer);
      EXPECT_TRUE(rows.ok()) << "round " << round << " call " << calls << ": " << rows.status();
      if (rows.ok()) {
        EXPECT_EQ(*rows, *expected);
      }
    }
    drain.join();
    const auto topology = engine.topology();
    EXPECT_EQ(topology->Find(identity_.fingerprint)->FindWorker("expert-1")->serve,
              identity_.AllExperts());
    // The name comes back at once, as a new member at another address, and takes its share.
    first = StartWorker("expert-0");
    ASSERT_TRUE(WaitFor([&] {
      const auto rows = CallAll(engine.dispatch(), checkpoint->config(), layer);
      EXPECT_TRUE(rows.ok()) << rows.status();
      const auto now = engine.topology();
      const auto* worker = now->Find(identity_.fingerprint)->FindWorker("expert-0");
      return worker != nullptr && !worker->serve.empty();
    }));
  }
}

// Frames by the older topology come as long as an engine has not applied the newer one.
TEST_F(WorkerTest, ADrainingWorkerServesUntilTheEngineHasApplied) {
  const auto first = StartWorker("expert-0"), second = StartWorker("expert-1");
  Engine engine(identity_, controller_.address(), kPatience);
  const auto checkpoint = OpenGolden("olmoe");
  const int32_t layer = identity_.moe_layers.front();
  ASSERT_TRUE(WaitFor([&] { return engine.dispatch().Missing().empty(); }));
  // Another member hears what the engine does not.
  Observer observer(controller_.address());
  engine.Hold(true);
  std::atomic<bool> drained{false};
  std::thread drain([&] {
    first->Drain(std::chrono::seconds(20));
    drained = true;
  });
  EXPECT_TRUE(WaitFor([&] {
    const auto topology = observer.topology();
    const auto* model = topology == nullptr ? nullptr : topology->Find(identity_.fingerprint);
    const auto* taker = model == nullptr ? nullptr : model->FindWorker("expert-1");
    return taker != nullptr && taker->serve == identity_.AllExperts();
  }));
  for (int i = 0; i < 50; ++i) {
    EXPECT_TRUE(CallAll(engine.dispatch(), checkpoint->config(), layer).ok());
    EXPECT_FALSE(drained);
  }
  engine.Hold(false);
  EXPECT_TRUE(WaitFor([&] { return drained.load(); }));
  EXPECT_TRUE(CallAll(engine.dispatch(), checkpoint->config(), layer).ok());
  drain.join();
}

TEST_F(WorkerTest, WhenAllDrainNoneWaitsForItsDrainTime) {
  const auto first = StartWorker("expert-0"), second = StartWorker("expert-1");
  std::optional<Engine> engine(std::in_place, identity_, controller_.address());
  ASSERT_TRUE(WaitFor([&] { return engine->dispatch().Missing().empty(); }));
  const auto start = std::chrono::steady_clock::now();
  std::thread other([&] { second->Drain(std::chrono::seconds(60)); });
  first->Drain(std::chrono::seconds(60));
  other.join();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST_F(WorkerTest, WithoutAnEngineADrainTakesNoTime) {
  const auto first = StartWorker("expert-0"), second = StartWorker("expert-1");
  {
    Engine engine(identity_, controller_.address());
    ASSERT_TRUE(WaitFor([&] { return engine.dispatch().Missing().empty(); }));
  }
  const auto start = std::chrono::steady_clock::now();
  first->Drain(std::chrono::seconds(60));
  controller_.Stop();
  second->Drain(std::chrono::seconds(60));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST_F(WorkerTest, ASecondWorkerOfANameIsRefused) {
  const auto first = StartWorker("expert-0");
  Engine engine(identity_, controller_.address());
  ASSERT_TRUE(WaitFor([&] { return engine.dispatch().Missing().empty(); }));
  const auto second = StartWorker("expert-0");
  EXPECT_TRUE(WaitFor([&] { return !second->Failure().ok(); }));
  EXPECT_THAT(std::string(second->Failure().message()), HasSubstr("expert-0"));
  EXPECT_TRUE(first->Failure().ok());
}

TEST_F(WorkerTest, AFrozenProcessIsGivenUpAndTakenBackWhenItWakes) {
  const CommonOptions common = Common();
  Process worker({CONCLAVE_BINARY_DIR "/conclave-expert", "--model", common.model,
                  "--controller-address", common.controller, "--state-dir", common.state_dir,
                  "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--threads", "1"});
  Engine engine(identity_, controller_.address());
  const auto checkpoint = OpenGolden("olmoe");
  const auto call = [&] {
    return CallOnce(engine.dispatch(), checkpoint->config(), identity_.moe_layers.front());
  };
  ASSERT_TRUE(WaitFor([&] { return engine.dispatch().Missing().empty(); }));
  EXPECT_TRUE(call().ok());

  worker.Freeze();
  const absl::Status late = call();
  EXPECT_EQ(late.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(late.message()), HasSubstr("expert-0 did not answer within 500 ms"));
  // From now on nobody waits for it.
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(call().code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(std::chrono::steady_clock::now() - start, kCallTimeout / 2);

  worker.Signal(SIGCONT);
  EXPECT_TRUE(WaitFor([&] { return engine.dispatch().Missing().empty(); }));
  EXPECT_TRUE(call().ok());
}

TEST_F(WorkerTest, UnusableSettingsAreNamed) {
  const auto error_of = [&](const CommonOptions& common, const ExpertOptions& options) {
    const auto worker = Worker::Start(common, options);
    EXPECT_FALSE(worker.ok());
    return std::string(worker.status().message());
  };
  CommonOptions common = Common();
  common.model = "";
  EXPECT_THAT(error_of(common, Options("expert-0")), HasSubstr("--model"));
  common.model = dir_.path() / "nothing";
  EXPECT_THAT(error_of(common, Options("expert-0")), HasSubstr("nothing"));
  common = Common();
  common.cluster_secret_file = dir_.path() / "no-secret";
  EXPECT_THAT(error_of(common, Options("expert-0")), HasSubstr("no-secret"));
  ExpertOptions options = Options("expert-0");
  options.listen = "0.0.0.0:0";
  EXPECT_THAT(error_of(Common(), options), HasSubstr("cluster_secret_file"));
  options = Options("expert-0");
  options.cpu_level = "fast";
  EXPECT_THAT(error_of(Common(), options), HasSubstr("avx512"));
  const auto running = StartWorker("expert-0");
  options = Options("expert-1");
  options.listen = running->address();
  EXPECT_THAT(error_of(Common(), options), HasSubstr("in use"));
}

TEST_F(WorkerTest, AWorkerWithAnotherCheckpointThanTheEngineSaysSo) {
  placement::ModelIdentity other = identity_;
  other.fingerprint = std::string(64, 'f');
  other.numerics_class = "f32";
  std::optional<Engine> engine(std::in_place, other, controller_.address());
  ASSERT_TRUE(WaitFor([&] { return engine->topology() != nullptr; }));
  const auto worker = StartWorker("expert-0");
  const auto ready = [&] {
    const auto answer = HttpGet(worker->ops_address(), "/readyz", std::chrono::seconds(5));
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *answer : HttpAnswer{};
  };
  const std::string why = "engine-0 serves fingerprint ffffffffffff (f32)";
  EXPECT_TRUE(WaitFor([&] { return ready().body.find(why) != std::string::npos; }));
  EXPECT_EQ(ready().status, 503);
  EXPECT_THAT(ready().body, HasSubstr(identity_.fingerprint.substr(0, 12) + " (bf16)"));
  EXPECT_THAT(ready().body, HasSubstr("the same checkpoint and numerics"));
  // With an engine of its own it gets its experts.
  engine.reset();
  engine.emplace(identity_, controller_.address());
  EXPECT_TRUE(WaitFor([&] { return ready().status == 200; }));
  EXPECT_EQ(ready().body.find("fingerprint"), std::string::npos);
  // What it has it keeps, and says that nobody wants it.
  engine.reset();
  engine.emplace(other, controller_.address());
  EXPECT_TRUE(WaitFor([&] { return ready().body.find(why) != std::string::npos; }));
  EXPECT_EQ(ready().status, 200);
}

TEST_F(WorkerTest, AWorkerWithTooLittleMemorySaysSo) {
  ExpertOptions options = Options("expert-0");
  options.memory.bytes = 1000;
  const auto worker = Worker::Start(Common(), options);
  ASSERT_TRUE(worker.ok()) << worker.status();
  Engine engine(identity_, controller_.address());
  EXPECT_TRUE(WaitFor([&] { return engine.topology() != nullptr; }));
  EXPECT_EQ(engine.dispatch().Missing().size(), identity_.AllExperts().size());
}

}  // namespace
}  // namespace conclave::expert
