#include "services/gateway/request_scheduler.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <vector>

#include "shared/rpc/status.h"
#include "tests/gateway/simulated_engine.h"

namespace conclave::gateway {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

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
    heard_->done = true;
    heard_->engine_us = usage.engine_us;
  }
  void OnFailed(const absl::Status& status) override { heard_->failed = status; }

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
    generation.prompt_ids.assign(static_cast<size_t>(ask.prompt), 5);
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

std::shared_ptr<const TextModel> RequestSchedulerTest::model_;

TEST_F(RequestSchedulerTest, RunsAtOnceWhereThereIsRoom) {
  Start({});
  const auto heard = Submit({.answer = 3, .choices = 2});
  EXPECT_TRUE(heard->started);
  EXPECT_EQ(engine_.started.size(), 2U);
  EXPECT_EQ(engine_.started[1].choice_index, 1);
  Finish();
  EXPECT_EQ(heard->tokens, 6);
  EXPECT_TRUE(heard->done);
  EXPECT_EQ(scheduler_->num_running(), 0);
}

TEST_F(RequestSchedulerTest, AsksAnotherEngineWhenOneThatLeavesRefuses) {
  Start({});
  const auto heard = Submit({.answer = 3, .choices = 2});
  SimulatedEngine other;
  other.Join(&engines_, "engine-1", 0, 0);
  const SequenceFailed refused{absl::UnavailableError("the engine is draining"), true};
  scheduler_->OnEvent({engine_.started[0].sequence_id, refused});
  scheduler_->OnEvent({engine_.started[1].sequence_id, refused});
  EXPECT_EQ(other.started.size(), 2U) << "the second refusal is of a sequence that is forgotten";
  Submit({});
  EXPECT_EQ(engine_.started.size(), 2U) << "it is asked no more";
  for (int i = 0; i < 5; ++i) {
    for (const SequenceEvent& event : other.Step(1000)) scheduler_->OnEvent(event);
  }
  EXPECT_EQ(heard->tokens, 6);
  EXPECT_TRUE(heard->done);
  EXPECT_EQ(scheduler_->num_running(), 0);
}

TEST_F(RequestSchedulerTest, WaitsForAnotherEngineWhenTheOnlyOneLeaves) {
  Start({});
  const auto heard = Submit({.answer = 3});
  scheduler_->OnEvent({engine_.started[0].sequence_id,
                       SequenceFailed{absl::UnavailableError("the engine is draining"), true}});
  EXPECT_EQ(engine_.started.size(), 1U);
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  EXPECT_FALSE(heard->failed);
  SimulatedEngine other;
  other.Join(&engines_, "engine-1", 0, 0);
  scheduler_->Dispatch();
  EXPECT_EQ(other.started.size(), 1U);
}

TEST_F(RequestSchedulerTest, FailsWhatHasBegunWhenItsEngineRefuses) {
  Start({});
  const auto heard = Submit({.answer = 3});
  Step();
  scheduler_->OnEvent({engine_.started[0].sequence_id,
                       SequenceFailed{absl::UnavailableError("the engine is draining"), true}});
  ASSERT_TRUE(heard->failed);
  EXPECT_EQ(heard->failed->message(), "the engine is draining");
}

TEST_F(RequestSchedulerTest, WaitsForAPlaceAndStartsByClass) {
  Start({.max_running = 1});
  const auto first = Submit({});
  const auto batch = Submit({.qos = QosClass::kBatch});
  const auto realtime = Submit({.qos = QosClass::kRealtime});
  EXPECT_TRUE(batch->started) << "its client has id and seed at once";
  EXPECT_EQ(scheduler_->num_waiting(), 2);
  EXPECT_EQ(engine_.started.size(), 1U);
  Finish();
  EXPECT_TRUE(first->done && batch->done && realtime->done);
  EXPECT_EQ(engine_.started[1].qos, QosClass::kRealtime);
  EXPECT_EQ(engine_.started[2].qos, QosClass::kBatch);
}

TEST_F(RequestSchedulerTest, KeepsPlacesForTheClassesAbove) {
  Start({.max_running = 10});
  for (int i = 0; i < 20; ++i) Submit({.qos = QosClass::kSheddable});
  EXPECT_EQ(scheduler_->num_running(), 7);
  for (int i = 0; i < 20; ++i) Submit({.qos = QosClass::kBatch});
  EXPECT_EQ(scheduler_->num_running(), 9);
  for (int i = 0; i < 20; ++i) Submit({.qos = QosClass::kRealtime});
  EXPECT_EQ(scheduler_->num_running(), 10);
}

TEST_F(RequestSchedulerTest, ARequestThatHasMovedUpStopsNobodyThere) {
  Start({.max_running = 10, .queue = {.aging = seconds(2)}});
  for (int i = 0; i < 8; ++i) Submit({.answer = 1000});
  const auto old = Submit({.qos = QosClass::kSheddable, .answer = 1000});
  EXPECT_EQ(scheduler_->num_running(), 8);
  for (int i = 0; i < 5; ++i) {
    clock_.Advance(seconds(2));
    scheduler_->Tick();
  }
  EXPECT_EQ(scheduler_->num_running(), 9) << "the old one runs in a place of the class above";
  EXPECT_TRUE(Submit({.qos = QosClass::kRealtime})->started);
  EXPECT_EQ(scheduler_->num_running(), 10);
  EXPECT_FALSE(old->failed);
}

TEST_F(RequestSchedulerTest, AnAnswerThatGrowsTooLargeIsNotShared) {
  Start({});
  Submit({.prompt = 1, .answer = 4000, .choices = 32, .cache_key = 1});
  EXPECT_EQ(Submit({.cache_key = 1})->cache, CacheStatus::kJoined);
  for (int i = 0; i < 3000; ++i) Step();
  EXPECT_EQ(Submit({.cache_key = 1})->cache, CacheStatus::kMiss);
  Finish();
}

TEST_F(RequestSchedulerTest, HeedsTheRoomOfEachEngine) {
  Start({}, /*engine_sequences=*/4, /*kv_tokens=*/100);
  Submit({.choices = 2});
  Submit({.choices = 2});
  EXPECT_EQ(scheduler_->num_waiting(), 1) << "interactive requests may not fill the last place";
  SimulatedEngine other;
  other.Join(&engines_, "engine-1", 0, 0);
  scheduler_->Dispatch();
  EXPECT_EQ(scheduler_->num_waiting(), 0);
  EXPECT_EQ(other.started.size(), 2U);
  scheduler_.reset();
}

TEST_F(RequestSchedulerTest, DoesNotOvercommitTheKvCache) {
  Start({}, /*engine_sequences=*/100, /*kv_tokens=*/100);
  Submit({.qos = QosClass::kRealtime, .prompt = 50, .answer = 10});
  Submit({.qos = QosClass::kRealtime, .prompt = 30, .answer = 9});
  EXPECT_EQ(engine_.started.size(), 2U);
  const auto third = Submit({.qos = QosClass::kRealtime, .prompt = 4, .answer = 4});
  EXPECT_EQ(engine_.started.size(), 2U);
  Finish();
  EXPECT_TRUE(third->done);
  // What no cache could hold beside others runs alone.
  const auto large = Submit({.prompt = 4000, .answer = 4});
  Finish();
  EXPECT_TRUE(large->done);
}

TEST_F(RequestSchedulerTest, HoldsATenantToItsOwnLimit) {
  Start({});
  const Tenant small{.name = "small", .max_running = 2};
  for (int i = 0; i < 5; ++i) Submit({.tenant = &small});
  const Tenant other_tenant{.name = "other"};
  const auto other = Submit({.tenant = &other_tenant});
  EXPECT_EQ(engine_.started.size(), 3U);
  EXPECT_EQ(scheduler_->num_waiting(), 3);
  Finish();
  EXPECT_TRUE(other->done);
  EXPECT_EQ(engine_.started.size(), 6U);
}

TEST_F(RequestSchedulerTest, RefusesWhenTheQueueIsFull) {
  Start({.max_running = 1, .max_waiting = 2});
  Submit({});
  const auto sheddable = Submit({.qos = QosClass::kSheddable});
  const auto waiting = Submit({});
  const auto refused = Submit({.qos = QosClass::kSheddable});
  EXPECT_EQ(ReasonOf(*refused), "TOO_MANY_REQUESTS");
  EXPECT_FALSE(refused->started);
  EXPECT_FALSE(sheddable->failed);
  const auto urgent = Submit({.qos = QosClass::kRealtime});  // pushes out the sheddable one
  EXPECT_EQ(ReasonOf(*sheddable), "TOO_MANY_REQUESTS");
  EXPECT_FALSE(urgent->failed);
  Finish();
  EXPECT_TRUE(urgent->done && waiting->done);
}

TEST_F(RequestSchedulerTest, RefusesWhatCannotMeetItsDeadline) {
  Start({.max_running = 1});
  // Ten seconds of work at 10 tokens a second, and always something that waits.
  for (int i = 0; i < 20; ++i) Submit({.prompt = 1, .answer = 20});
  for (int i = 0; i < 100; ++i) {
    Step();
    clock_.Advance(milliseconds(100));
    scheduler_->Tick();
  }
  ASSERT_GT(scheduler_->num_waiting(), 5);
  const auto hasty = Submit({.timeout = seconds(2)});
  EXPECT_EQ(ReasonOf(*hasty), "DEADLINE_OUT_OF_REACH");
  EXPECT_GT(rpc::DetailsOf(*hasty->failed).retry_after_ms, 2000);
  EXPECT_FALSE(Submit({.timeout = seconds(600)})->failed);
  // In a class above nothing waits.
  EXPECT_FALSE(Submit({.qos = QosClass::kRealtime, .timeout = seconds(2)})->failed);
}

TEST_F(RequestSchedulerTest, EndsWaitingRequestsInEveryWay) {
  Start({.max_running = 1});
  Submit({});
  const auto cancelled = Submit({.id = "cancelled"});
  const auto late = Submit({.timeout = seconds(1)});
  const auto abandoned = Submit({});
  scheduler_->Abandon(last_key_);
  EXPECT_TRUE(scheduler_->Cancel("", "cancelled").ok());
  EXPECT_TRUE(absl::IsNotFound(scheduler_->Cancel("", "cancelled")));
  EXPECT_EQ(cancelled->finished, std::vector<FinishReason>{FinishReason::kCancelled});
  EXPECT_TRUE(cancelled->done);
  clock_.Advance(seconds(1));
  scheduler_->Tick();
  EXPECT_TRUE(absl::IsDeadlineExceeded(*late->failed));
  EXPECT_FALSE(abandoned->failed);
  EXPECT_EQ(scheduler_->num_waiting(), 0);
  EXPECT_EQ(engine_.started.size(), 1U);
  EXPECT_TRUE(engine_.cancelled.empty());
}

TEST_F(RequestSchedulerTest, WaitsAMomentForAnEngine) {
  Start({.max_running = 1, .engine_wait = seconds(2)});
  const auto running = Submit({});
  const auto waiting = Submit({});
  engines_.Find("engine-0")->identity.reset();
  engines_.Find("engine-0")->offered.reset();
  scheduler_->FailAllOn("engine-0", absl::UnavailableError("lost"));
  EXPECT_TRUE(running->failed);
  EXPECT_FALSE(waiting->failed);
  EXPECT_EQ(ReasonOf(*Submit({})), "NO_ENGINE");
  scheduler_->Tick();
  clock_.Advance(milliseconds(1999));
  scheduler_->Tick();
  EXPECT_FALSE(waiting->failed);
  SimulatedEngine other;
  other.Join(&engines_, "engine-1", 0, 0);
  scheduler_->Dispatch();
  EXPECT_EQ(other.started.size(), 1U);
  scheduler_.reset();
}

TEST_F(RequestSchedulerTest, GivesUpWithoutAnEngine) {
  Start({.max_running = 1, .engine_wait = seconds(2)});
  Submit({});
  const auto waiting = Submit({});
  engines_.Find("engine-0")->identity.reset();
  scheduler_->FailAllOn("engine-0", absl::UnavailableError("lost"));
  scheduler_->Tick();
  clock_.Advance(seconds(2));
  scheduler_->Tick();
  EXPECT_EQ(ReasonOf(*waiting), "NO_ENGINE");
}

TEST_F(RequestSchedulerTest, RefusesWhatWasPreparedForAnotherModel) {
  Start({});
  EXPECT_EQ(ReasonOf(*Submit({.fingerprint = std::string(64, 'b'), .cache_key = 1})), "NO_ENGINE");
  EXPECT_EQ(cache_.counts().entries, 0);
}

TEST_F(RequestSchedulerTest, RefusesAnIdInUseWhileItWaits) {
  Start({.max_running = 1});
  Submit({});
  Submit({.id = "twice"});
  EXPECT_TRUE(absl::IsAlreadyExists(*Submit({.id = "twice"})->failed));
}

TEST_F(RequestSchedulerTest, FailsEverythingAtTheEnd) {
  Start({.max_running = 1});
  const auto running = Submit({});
  const auto waiting = Submit({});
  scheduler_->FailAll(absl::UnavailableError("the end"));
  EXPECT_TRUE(running->failed && waiting->failed);
  EXPECT_EQ(engine_.started.size(), 1U);
}

TEST_F(RequestSchedulerTest, EqualRequestsShareOneRun) {
  Start({});
  const auto first = Submit({.answer = 3, .cache_key = 1});
  Step();
  const auto second = Submit({.answer = 3, .cache_key = 1});
  const auto other = Submit({.answer = 3, .cache_key = 2});
  const auto apart = Submit({.answer = 3});
  EXPECT_EQ(engine_.started.size(), 3U);
  EXPECT_EQ(second->tokens, 1) << "what there was when it came";
  Finish();
  for (const auto& heard : {first, second, other, apart}) {
    EXPECT_EQ(heard->tokens, 3);
    EXPECT_TRUE(heard->done);
  }
  EXPECT_EQ(first->cache, CacheStatus::kMiss);
  EXPECT_EQ(second->cache, CacheStatus::kJoined);
  EXPECT_EQ(apart->cache, CacheStatus::kNone);
  EXPECT_GT(first->engine_us, 0);
  EXPECT_EQ(second->engine_us, 0) << "the work is charged once";
  CacheKey key;
  key.fill(1);
  const auto kept = cache_.Find(key);
  ASSERT_NE(kept, nullptr);
  EXPECT_EQ(kept->choices[0].ids, (std::vector<int32_t>{5, 5, 5}));
  EXPECT_EQ(kept->usage.completion_tokens, 3);
  // The next one starts anew: the cache is asked before the scheduler.
  EXPECT_EQ(Submit({.cache_key = 1})->cache, CacheStatus::kMiss);
}

TEST_F(RequestSchedulerTest, EachOfThoseWhoShareMayLeave) {
  Start({});
  const auto first = Submit({.answer = 3, .id = "first", .cache_key = 1});
  const uint64_t first_key = last_key_;
  const auto second = Submit({.answer = 3, .id = "second", .cache_key = 1});
  const auto third = Submit({.answer = 3, .timeout = seconds(1), .id = "third", .cache_key = 1});
  Step();
  scheduler_->Abandon(first_key);
  EXPECT_TRUE(scheduler_->Cancel("", "second").ok());
  EXPECT_EQ(second->finished, std::vector<FinishReason>{FinishReason::kCancelled});
  EXPECT_TRUE(second->done);
  EXPECT_TRUE(engine_.cancelled.empty());
  Step();
  EXPECT_EQ(first->tokens, 1);
  EXPECT_EQ(second->tokens, 1);
  EXPECT_EQ(third->tokens, 2);
  clock_.Advance(seconds(1));
  scheduler_->Tick();
  EXPECT_TRUE(absl::IsDeadlineExceeded(*third->failed));
  EXPECT_EQ(engine_.cancelled.size(), 1U) << "nobody listens any more";
  EXPECT_EQ(scheduler_->num_running(), 0);
  EXPECT_EQ(cache_.counts().entries, 0);
}

TEST_F(RequestSchedulerTest, SharesNoRunThatSuitsItLess) {
  Start({});
  Submit({.qos = QosClass::kBatch, .answer = 9, .cache_key = 1});
  EXPECT_EQ(Submit({.qos = QosClass::kRealtime, .cache_key = 1})->cache, CacheStatus::kMiss);
  Submit({.answer = 9, .cache_key = 2, .pace = 1});
  EXPECT_EQ(Submit({.cache_key = 2})->cache, CacheStatus::kMiss);
  Submit({.answer = 9, .timeout = seconds(5), .cache_key = 3});
  EXPECT_EQ(Submit({.cache_key = 3})->cache, CacheStatus::kMiss);
  Submit({.answer = 9, .timeout = seconds(5), .cache_key = 4});
  EXPECT_EQ(Submit({.timeout = seconds(4), .cache_key = 4})->cache, CacheStatus::kJoined);
}

TEST_F(RequestSchedulerTest, AFailedRunFailsAllWhoShareIt) {
  Start({});
  const auto first = Submit({.cache_key = 1});
  const auto second = Submit({.cache_key = 1});
  scheduler_->FailAllOn("engine-0", absl::UnavailableError("lost"));
  EXPECT_TRUE(first->failed && second->failed);
  EXPECT_EQ(cache_.counts().entries, 0);
  EXPECT_EQ(Submit({.cache_key = 1})->cache, CacheStatus::kMiss);
}

// Two tenants, one sending twenty times as much: the tokens given while both wait.
TEST_F(RequestSchedulerTest, SharesTokensByWeightUnderLoad) {
  Start({.max_running = 8, .max_waiting = 5000}, 8, 0);
  const Tenant loud{.name = "loud", .weight = 1};
  const Tenant quiet{.name = "quiet", .weight = 1};
  std::vector<std::shared_ptr<Heard>> of_loud, of_quiet;
  for (int second = 0; second < 60; ++second) {
    // The engine computes 800 tokens a second; the quiet tenant alone asks for as much.
    for (int i = 0; i < 100; ++i) {
      for (int k = 0; k < 20; ++k)
        of_loud.push_back(Submit({.tenant = &loud, .prompt = 1, .answer = 9}));
      of_quiet.push_back(Submit({.tenant = &quiet, .prompt = 1, .answer = 7}));
      Step(8);
      clock_.Advance(milliseconds(10));
      if (i % 10 == 0) scheduler_->Tick();
    }
  }
  const auto tokens = [](const std::vector<std::shared_ptr<Heard>>& all) {
    double sum = 0;
    for (const auto& heard : all) {
      sum += static_cast<double>(heard->tokens) + (heard->first_token ? 1 : 0);
    }
    return sum;
  };
  const double share = tokens(of_quiet) / (tokens(of_quiet) + tokens(of_loud));
  EXPECT_NEAR(share, 0.5, 0.025);
}

// Five times what the engine can do, for a minute: it stays busy, and the urgent ones notice
// nothing.
TEST_F(RequestSchedulerTest, StaysUsefulUnderOverload) {
  Start({.max_running = 32, .max_waiting = 200}, 32, 0);
  std::vector<std::pair<TimePoint, std::shared_ptr<Heard>>> realtime;
  int64_t given = 0;
  int64_t steps = 0;
  for (int i = 0; i < 6000; ++i) {  // 10 ms each; the engine computes 16 tokens in a step
    Submit({.qos = QosClass::kSheddable, .prompt = 1, .answer = 16});
    Submit({.qos = QosClass::kBatch, .prompt = 1, .answer = 16});
    Submit({.qos = QosClass::kInteractive, .prompt = 1, .answer = 16});
    Submit({.qos = QosClass::kInteractive, .prompt = 1, .answer = 16});
    if (i % 5 == 0)
      realtime.emplace_back(clock_.Now(),
                            Submit({.qos = QosClass::kRealtime, .prompt = 1, .answer = 16}));
    const std::vector<SequenceEvent> events = engine_.Step(16);
    for (const SequenceEvent& event : events) {
      given += std::holds_alternative<SequenceTokens>(event.what);
      scheduler_->OnEvent(event);
    }
    ++steps;
    clock_.Advance(milliseconds(10));
    if (i % 10 == 0) scheduler_->Tick();
  }
  EXPECT_GE(static_cast<double>(given), 0.95 * 16 * static_cast<double>(steps));
  int64_t slow = 0;
  for (const auto& [arrival, heard] : realtime) {
    EXPECT_FALSE(heard->failed);
    if (heard->first_token && *heard->first_token - arrival > milliseconds(10)) ++slow;
  }
  EXPECT_LE(slow, static_cast<int64_t>(realtime.size() / 100));
}

}  // namespace
}  // namespace conclave::gateway
