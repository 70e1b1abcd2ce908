// A RequestScheduler with a simulated engine and clock, and requests whose clients say what they
// heard.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "services/gateway/request_scheduler.h"
#include "shared/rpc/status.h"
#include "tests/gateway/simulated_engine.h"

namespace conclave::gateway {

// What one request's client hears.
struct Heard {
  bool started = false;
  int64_t tokens = 0;
  std::vector<FinishReason> finished;
  bool done = false;
  std::optional<absl::Status> failed;
  std::optional<TimePoint> first_token;
  CacheStatus cache = CacheStatus::kNone;
  int64_t engine_us = 0;
  int ends = 0;  // how often it heard of its end
};

class HearingSink final : public GenerationSink {
 public:
  HearingSink(std::shared_ptr<Heard> heard, const Clock* clock)
      : heard_(std::move(heard)), clock_(clock) {}
  void OnStarted(const Started& started) override {
    heard_->started = true;
    heard_->cache = started.cache;
  }
  void OnTokens(const ChoiceTokens& tokens) override {
    EXPECT_TRUE(heard_->started);
    heard_->tokens += static_cast<int64_t>(tokens.ids.size());
    if (!heard_->first_token) heard_->first_token = clock_->Now();
  }
  void OnFinished(const ChoiceFinished& finished) override {
    heard_->finished.push_back(finished.reason);
  }
  void OnDone(const Usage& usage) override {
    ++heard_->ends;
    heard_->done = true;
    heard_->engine_us = usage.engine_us;
  }
  void OnFailed(const absl::Status& status) override {
    ++heard_->ends;
    heard_->failed = status;
  }

 private:
  const std::shared_ptr<Heard> heard_;
  const Clock* const clock_;
};

class RequestSchedulerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto loaded = TextModel::Load(CONCLAVE_SOURCE_DIR "/models/tales", "tales");
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    model_ = *std::move(loaded);
  }
  static void TearDownTestSuite() { model_.reset(); }

  void Start(RequestSchedulerOptions options, int32_t engine_sequences = 0, int64_t kv_tokens = 0) {
    engine_.Join(&engines_, "engine-0", engine_sequences, kv_tokens);
    scheduler_ = std::make_unique<RequestScheduler>(options, &engines_, model_.get(), &signer_,
                                                    &cache_, &registry_, &clock_);
  }

  static constexpr int32_t kPromptId = 5;  // all prompts repeat it
  struct Ask {
    QosClass qos = QosClass::kInteractive;
    const Tenant* tenant = nullptr;  // null: the nameless one
    int64_t prompt = 4;
    int64_t answer = 4;
    int32_t choices = 1;
    std::optional<Duration> timeout = std::nullopt;
    std::string id = "";
    std::string fingerprint = std::string(64, 'a');
    int cache_key = 0;  // of the answer; 0: it is not kept
    double pace = 0;
  };
  std::shared_ptr<Heard> Submit(const Ask& ask) {
    Generation generation;
    generation.api = "chat";
    generation.request_id = ask.id.empty() ? "r" + std::to_string(next_key_) : ask.id;
    generation.model = "tales";
    generation.fingerprint = ask.fingerprint;
    generation.prompt_ids = std::vector<int32_t>(static_cast<size_t>(ask.prompt), kPromptId);
    generation.num_choices = ask.choices;
    generation.max_tokens = ask.answer;
    generation.qos = ask.qos;
    if (ask.tenant) generation.tenant = *ask.tenant;
    generation.arrival = clock_.Now();
    generation.sampling.pace = ask.pace;
    if (ask.cache_key != 0) {
      generation.cache_key.emplace();
      generation.cache_key->fill(static_cast<uint8_t>(ask.cache_key));
    }
    if (ask.timeout) generation.deadline = clock_.Now() + *ask.timeout;
    generation.definition_hash = DefinitionHash(generation);
    auto heard = std::make_shared<Heard>();
    last_key_ = next_key_++;
    scheduler_->Submit(last_key_, std::move(generation), nullptr,
                       std::make_shared<HearingSink>(heard, &clock_));
    return heard;
  }
  // The engine gives each of its sequences a token.
  void Step(int64_t tokens = 1000) {
    for (const SequenceEvent& event : engine_.Step(tokens)) scheduler_->OnEvent(event);
  }
  void Finish() {
    for (int i = 0; i < 100 && engine_.num_running() > 0; ++i) Step();
  }
  static std::string ReasonOf(const Heard& heard) {
    return heard.failed ? rpc::DetailsOf(*heard.failed).reason : "";
  }

  static std::shared_ptr<const TextModel> model_;
  SimulatedClock clock_;
  metrics::Registry registry_;
  ResumeTokenSigner signer_{"secret"};
  ResponseCache cache_{{}, &clock_};
  EngineSet engines_;
  SimulatedEngine engine_;
  std::unique_ptr<RequestScheduler> scheduler_;
  uint64_t next_key_ = 1;
  uint64_t last_key_ = 0;
};

inline std::shared_ptr<const TextModel> RequestSchedulerTest::model_;

}  // namespace conclave::gateway
