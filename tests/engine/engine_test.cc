// The whole engine as the process runs it: settings in, ports open, tokens out, orderly end.
// Experts in its own process; no controller is there, which must not matter.
#include "services/engine/engine.h"

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/golden_engine.h"
#include "tests/engine/test_gateway.h"
#include "tests/support/wait.h"

namespace conclave::engine {
namespace {

using conclave::testing::WaitFor;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class EngineTest : public ::testing::Test {
 protected:
  EngineTest() {
    common_.model = std::string(CONCLAVE_SOURCE_DIR) + "/tests/golden/deepseek_v3";
    common_.numerics = "f32";
    common_.served_name = "tiny";
    common_.controller = "127.0.0.1:1";  // nobody
    state_dir_ = std::filesystem::path(::testing::TempDir()) /
                 ("engine_test_" + std::to_string(::getpid()) + "_" +
                  ::testing::UnitTest::GetInstance()->current_test_info()->name());
    common_.state_dir = state_dir_;
    options_.listen = "127.0.0.1:0";
    options_.ops_listen = "127.0.0.1:0";
    options_.experts = "local";
    options_.threads = 1;
    options_.max_batch = 8;
  }
  ~EngineTest() override { std::filesystem::remove_all(state_dir_); }

  std::unique_ptr<Engine> StartReady() {
    auto engine = Engine::Start(common_, options_);
    EXPECT_TRUE(engine.ok()) << engine.status();
    if (!engine.ok()) return nullptr;
    EXPECT_TRUE(WaitFor([&] { return (*engine)->ready() || !(*engine)->Failure().ok(); }));
    EXPECT_TRUE((*engine)->Failure().ok()) << (*engine)->Failure();
    return *std::move(engine);
  }

  const GoldenModel& model_ = LoadGolden("deepseek_v3", kernels::NumericsClass::kF32);
  std::filesystem::path state_dir_;
  CommonOptions common_;
  EngineOptions options_;
};

TEST_F(EngineTest, LoadsServesAndDrains) {
  const std::unique_ptr<Engine> engine = StartReady();
  ASSERT_NE(engine, nullptr);
  EXPECT_FALSE(engine->loading());
  EXPECT_THAT(engine->system_fingerprint(), MatchesRegex("tiny-f32-cpu1-[0-9a-f]{4}"));
  EXPECT_EQ(engine->fingerprint().size(), 64u);
  Gateway gateway(engine->address());
  gateway.Write(Gateway::StartOf(engine->fingerprint(), 1, model_.Prompt(1), 32));
  EXPECT_EQ(gateway.ReadUntilEnded(1).ids, model_.GreedyIds(1));
  EXPECT_EQ(gateway.hello->system_fingerprint(), engine->system_fingerprint());
  EXPECT_EQ(gateway.hello->context_tokens(), model_.checkpoint->config().max_positions);

  // A running sequence ends in the grace; a new one is refused.
  v1::EngineCommand running = Gateway::StartOf(engine->fingerprint(), 2, model_.Prompt(1), 30);
  running.mutable_start()->mutable_sampling()->set_pace(60);
  gateway.Write(running);
  while (gateway.told[2].ids.empty()) ASSERT_TRUE(gateway.Read());
  std::thread drain([&] { engine->Drain(seconds(30)); });
  EXPECT_TRUE(WaitFor([&] { return !engine->ready(); }));
  uint64_t id = 3;
  do {  // draining begins a moment after the engine stops being ready
    gateway.Write(Gateway::StartOf(engine->fingerprint(), id, model_.Prompt(1), 1));
  } while (gateway.ReadUntilEnded(id++).failed.empty() && id < 1000);
  EXPECT_EQ(gateway.told[id - 1].failed[0].code(),
            static_cast<int>(absl::StatusCode::kUnavailable));
  EXPECT_EQ(gateway.ReadUntilEnded(2).ids.size(), 30u);
  EXPECT_TRUE(gateway.leaving);
  drain.join();
}

// A start that is on its way when the last sequence ends is answered, and not cut off.
TEST_F(EngineTest, ReadsUntilItsGatewaysSayThatNothingComes) {
  const std::unique_ptr<Engine> engine = StartReady();
  ASSERT_NE(engine, nullptr);
  Gateway gateway(engine->address());
  ASSERT_TRUE(gateway.Read());
  std::thread drain([&] { engine->Drain(seconds(30)); });
  while (!gateway.leaving) ASSERT_TRUE(gateway.Read());
  Gateway late(engine->address());
  EXPECT_THAT(late.Finish().error_message(), HasSubstr("draining"));
  std::this_thread::sleep_for(milliseconds(500));  // longer than an end without a goodbye takes
  gateway.Write(Gateway::StartOf(engine->fingerprint(), 1, model_.Prompt(1), 1));
  EXPECT_TRUE(gateway.ReadUntilEnded(1).failed.at(0).refused());
  const auto goodbye = std::chrono::steady_clock::now();
  EXPECT_TRUE(gateway.Finish().ok());
  drain.join();
  EXPECT_LT(std::chrono::steady_clock::now() - goodbye, milliseconds(400));
}

TEST_F(EngineTest, WhatOutlivesTheGraceIsToldSo) {
  const std::unique_ptr<Engine> engine = StartReady();
  ASSERT_NE(engine, nullptr);
  Gateway gateway(engine->address());
  v1::EngineCommand running = Gateway::StartOf(engine->fingerprint(), 1, model_.Prompt(1), 400);
  running.mutable_start()->mutable_sampling()->set_pace(10);
  gateway.Write(running);
  while (gateway.told[1].ids.empty()) ASSERT_TRUE(gateway.Read());
  engine->Drain(milliseconds(1));
  const Told& told = gateway.ReadUntilEnded(1);
  ASSERT_EQ(told.failed.size(), 1u);
  EXPECT_EQ(told.failed[0].code(), static_cast<int>(absl::StatusCode::kUnavailable));
}

TEST_F(EngineTest, ContextAndKvMemoryFollowTheSettings) {
  options_.context = 96;
  options_.kv_memory.bytes = 1 << 20;
  const std::unique_ptr<Engine> engine = StartReady();
  ASSERT_NE(engine, nullptr);
  Gateway gateway(engine->address());
  gateway.Write(Gateway::StartOf(engine->fingerprint(), 1, model_.Prompt(1), 400));
  EXPECT_EQ(gateway.ReadUntilEnded(1).ids.size(), 96 - model_.Prompt(1).size());
  EXPECT_EQ(gateway.hello->context_tokens(), 96);
}

TEST_F(EngineTest, RefusesUnusableSettingsByName) {
  struct Case {
    std::function<void(CommonOptions&, EngineOptions&)> spoil;
    std::string named;
  };
  const std::vector<Case> cases = {
      {[](auto& c, auto&) { c.model = ""; }, "--model"},
      {[](auto& c, auto&) { c.model = "/nowhere"; }, "/nowhere"},
      {[](auto& c, auto&) { c.numerics = "int3"; }, "int3"},
      {[](auto&, auto& e) { e.cpu_level = "mmx"; }, "mmx"},
      {[](auto&, auto& e) { e.context = 1 << 30; }, "engine.context is 1073741824"},
      // Before anything is loaded.
      {[](auto&, auto& e) { e.context = 512, e.kv_memory.bytes = 4096; },
       "engine.kv_memory is 4 KiB, room for 0 tokens"},
      {[](auto&, auto& e) { e.kv_memory.bytes = int64_t{1} << 50; }, "(limit: "},
      {[](auto&, auto& e) { e.listen = "nonsense"; }, "nonsense"},
      {[](auto&, auto& e) { e.ops_listen = "127.0.0.1:999999"; }, "999999"},
      {[](auto& c, auto&) { c.cluster_secret_file = "/no/secret"; }, "/no/secret"},
  };
  for (const Case& bad : cases) {
    CommonOptions common = common_;
    EngineOptions options = options_;
    bad.spoil(common, options);
    const auto engine = Engine::Start(common, options);
    ASSERT_FALSE(engine.ok()) << bad.named;
    EXPECT_THAT(std::string(engine.status().message()), HasSubstr(bad.named));
  }
}

}  // namespace
}  // namespace conclave::engine
