#include <atomic>
#include <chrono>
#include <cstring>
#include <set>
#include <string>
#include <thread>

#include "tests/engine/remote_dispatch_fixture.h"

namespace conclave::engine {
namespace {

using RemoteDispatchTest = RemoteDispatchFixture;
class RemoteDispatchClassTest : public RemoteDispatchFixture,
                                public ::testing::WithParamInterface<kernels::NumericsClass> {};

// All rows of the request, each byte of them this one.
std::vector<std::byte> AnswerTo(const rpc::ParsedRequest& request, std::byte value) {
  std::vector<rpc::Answer> answers;
  for (uint32_t i = 0; i < request.references.size(); ++i)
    answers.push_back({i, rpc::AnswerStatus::kOk});
  rpc::ResultsHeader header;
  header.call_id = request.header.call_id;
  header.row_type = request.header.row_type;
  header.last = true;
  header.layer = request.header.layer;
  header.hidden = request.header.hidden;
  header.num_rows = static_cast<uint32_t>(answers.size());
  std::vector<std::byte> answer(rpc::ResultsFrameBytes(header, answers.size()), value);
  rpc::EncodeResults(header, answers, answer);
  return answer;
}

INSTANTIATE_TEST_SUITE_P(Classes, RemoteDispatchClassTest,
                         ::testing::ValuesIn(kernels::kNumericsClasses), [](const auto& info) {
                           return std::string(kernels::NumericsClassName(info.param));
                         });

TEST_P(RemoteDispatchClassTest, OneAndThreeWorkersGiveTheBitsOfThisProcess) {
  SetNumerics(GetParam());
  AddWorker();
  const auto one = Connect();
  topology_ = {};
  for (int i = 0; i < 3; ++i) AddWorker(i, 3);
  const auto three = Connect();
  ASSERT_TRUE(WaitForMissing(*one, 0));
  ASSERT_TRUE(WaitForMissing(*three, 0));
  for (const int64_t num_tokens : {1, 2, 7, 64}) {
    for (const int32_t layer : identity_.moe_layers) {
      const uint32_t seed = static_cast<uint32_t>(num_tokens * 100 + layer);
      const auto wanted = LocalResults(layer, num_tokens, seed);
      for (RemoteDispatch* dispatch : {one.get(), three.get()}) {
        const auto memory = MakeCall(layer, num_tokens, seed);
        const ExpertOutcome outcome = Run(*dispatch, *memory);
        EXPECT_TRUE(outcome.failed.empty());
        EXPECT_EQ(memory->results, wanted) << num_tokens << " tokens, layer " << layer;
      }
    }
  }
}

TEST_F(RemoteDispatchTest, CallsAboveOneMebibyteAreCut) {
  AddWorker(0, 2);
  AddWorker(1, 2);
  const auto dispatch = Connect();
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  // 12 000 rows of 192 bytes to each of two workers, and as many answers for each choice.
  ExpectServed(*dispatch, 3, 12'000);
}

TEST_F(RemoteDispatchTest, WithoutAWorkerRowsFailAtOnceAndByName) {
  const auto dispatch = Connect();
  EXPECT_EQ(dispatch->Missing().size(), identity_.AllExperts().size());
  const auto memory = MakeCall(1, 2, 1);
  const ExpertOutcome outcome = Run(*dispatch, *memory);
  ASSERT_EQ(outcome.failed.size(), 2u);
  EXPECT_EQ(outcome.failed[0].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(outcome.failed[0].status.message(), "layer 1 expert " +
                                                    std::to_string(memory->expert_ids[0]) +
                                                    " has no live worker (none is placed)");
}

TEST_F(RemoteDispatchTest, OnlyRowsOfALostWorkerFail) {
  AddWorker(0, 2);
  AddWorker(1, 2);
  const auto dispatch = Connect();
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  workers_[1]->Kill();
  ASSERT_TRUE(WaitForMissing(*dispatch, identity_.AllExperts().size() / 2));

  const auto memory = MakeCall(1, 40, 9);
  const auto start = std::chrono::steady_clock::now();
  const ExpertOutcome outcome = Run(*dispatch, *memory);
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(2000));
  std::set<int64_t> failed;
  for (const FailedToken& token : outcome.failed) {
    EXPECT_TRUE(failed.insert(token.token).second) << "reported twice";
    EXPECT_THAT(std::string(token.status.message()),
                HasSubstr("has no live worker (expert-1 lost)"));
  }
  const auto wanted = LocalResults(1, 40, 9);
  const int32_t top_k = memory->call.top_k;
  const size_t token_bytes = wanted.size() / 40;
  size_t served = 0;
  for (int64_t token = 0; token < 40; ++token) {
    bool needs_lost = false;
    for (int32_t k = 0; k < top_k; ++k)
      needs_lost |= memory->expert_ids[token * top_k + k] % 2 == 1;
    EXPECT_EQ(failed.contains(token), needs_lost);
    if (needs_lost) continue;
    ++served;
    EXPECT_EQ(std::memcmp(&memory->results[token * token_bytes], &wanted[token * token_bytes],
                          token_bytes),
              0);
  }
  EXPECT_GT(served, 0u);
  EXPECT_LT(served, 40u);
}

TEST_F(RemoteDispatchTest, ReconnectsToARestartedWorker) {
  ServedExperts& worker = AddWorker();
  const auto dispatch = Connect();
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  const std::string address = worker.address();
  worker.Kill();
  ASSERT_TRUE(WaitForMissing(*dispatch, identity_.AllExperts().size()));
  worker.Serve(address);
  ASSERT_TRUE(WaitForMissing(*dispatch, 0, milliseconds(3000)));
  ExpectServed(*dispatch);
}

TEST_F(RemoteDispatchTest, AnExpertThatIsNotHeldFailsByName) {
  ServedExperts& worker = AddWorker();
  const auto dispatch = Connect();
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  for (const ExpertKey& key : identity_.AllExperts())
    worker.experts().Release({key.layer, key.expert});
  const auto memory = MakeCall(1, 1, 1);
  const ExpertOutcome outcome = Run(*dispatch, *memory);
  ASSERT_EQ(outcome.failed.size(), 1u);
  EXPECT_EQ(outcome.failed[0].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(outcome.failed[0].status.message()),
              HasSubstr("(expert-0 does not hold it)"));
}

TEST_F(RemoteDispatchTest, ASecondReplicaTakesOverWhatTheFirstDoesNotHold) {
  ServedExperts& first = AddWorker();
  ServedExperts& second = AddWorker();
  const auto dispatch = Connect();
  UseAllWorkers(*dispatch);
  for (const ExpertKey& key : identity_.AllExperts())
    first.experts().Release({key.layer, key.expert});
  ExpectServed(*dispatch, 4, 16);
  first.Kill();
  ExpectServed(*dispatch, 5, 16);
  first.Load(identity_.AllExperts());
  second.Kill();
  EXPECT_FALSE(Run(*dispatch, *MakeCall(1, 1, 1)).failed.empty());
}

TEST_F(RemoteDispatchTest, AWorkerThatDiesInACallFailsItsRowsWithoutWaiting) {
  // Answers the hello, then breaks its stream at the first request.
  const auto hello = Hello();
  ScriptedWorker worker([&](const rpc::ParsedFrame& frame) -> std::vector<std::vector<std::byte>> {
    if (std::holds_alternative<rpc::HelloFrame>(frame)) return {hello};
    return {std::vector<std::byte>(10)};  // not a frame: the engine ends the stream
  });
  Place("expert-0", worker.address(), identity_.AllExperts());
  const auto dispatch = Connect(milliseconds(20'000));
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  const auto start = std::chrono::steady_clock::now();
  const ExpertOutcome outcome = Run(*dispatch, *MakeCall(1, 2, 1));
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(5000));
  EXPECT_EQ(outcome.failed.size(), 2u);
}

TEST_F(RemoteDispatchTest, AWorkerWithoutRoomIsNamedWithItsReason) {
  const auto hello = Hello();
  ScriptedWorker worker([&](const rpc::ParsedFrame& frame) -> std::vector<std::vector<std::byte>> {
    if (std::holds_alternative<rpc::HelloFrame>(frame)) return {hello};
    const uint64_t call_id = std::get<rpc::ParsedRequest>(frame).header.call_id;
    return {rpc::EncodeError({call_id, absl::StatusCode::kResourceExhausted, "too many frames"})};
  });
  Place("expert-0", worker.address(), identity_.AllExperts());
  const auto dispatch = Connect(milliseconds(20'000));
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  const ExpertOutcome outcome = Run(*dispatch, *MakeCall(1, 2, 1));
  ASSERT_EQ(outcome.failed.size(), 2u);
  EXPECT_EQ(outcome.failed[0].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(outcome.failed[0].status.message()),
              HasSubstr("has no live worker (expert-0: too many frames)"));
  EXPECT_TRUE(dispatch->Missing().empty());  // it lives: the next call asks it again
}

TEST_F(RemoteDispatchTest, AFrozenWorkerFailsItsRowsByTheDeadlineAndIsDisconnected) {
  const auto hello = Hello();
  ScriptedWorker worker([&](const rpc::ParsedFrame& frame) -> std::vector<std::vector<std::byte>> {
    if (std::holds_alternative<rpc::HelloFrame>(frame)) return {hello};
    return {};
  });
  Place("expert-0", worker.address(), identity_.AllExperts());
  const auto dispatch = Connect(milliseconds(300));
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  const auto memory = MakeCall(1, 2, 1);
  const auto start = std::chrono::steady_clock::now();
  const ExpertOutcome outcome = Run(*dispatch, *memory);
  const auto took = std::chrono::steady_clock::now() - start;
  EXPECT_GE(took, milliseconds(290));
  EXPECT_LT(took, milliseconds(3000));
  ASSERT_EQ(outcome.failed.size(), 2u);
  EXPECT_EQ(outcome.failed[0].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(outcome.failed[0].status.message()),
              HasSubstr("layer 1 expert " + std::to_string(memory->expert_ids[0]) +
                        ": expert-0 did not answer within 300 ms"));
  // Its stream is broken, so that it forgets the frame, and a new one is opened.
  EXPECT_TRUE(WaitFor([&] { return worker.num_streams() >= 2; }));
  EXPECT_GE(worker.num_cancelled(), 1);
}

TEST_F(RemoteDispatchTest, AWorkerSlowerThanTheRequestsDeadlineIsKept) {
  // The first request is answered only when it is cancelled, too late; the others at once.
  const auto hello = Hello();
  std::vector<std::byte> late;
  uint64_t late_call = 0;
  std::atomic<int> num_cancels{0};
  ScriptedWorker worker([&](const rpc::ParsedFrame& frame) -> std::vector<std::vector<std::byte>> {
    if (std::holds_alternative<rpc::HelloFrame>(frame)) return {hello};
    if (const auto* cancel = std::get_if<rpc::CancelFrame>(&frame)) {
      EXPECT_EQ(cancel->call_id, late_call);
      ++num_cancels;
      return {late};
    }
    const auto& request = std::get<rpc::ParsedRequest>(frame);
    if (late_call != 0) return {AnswerTo(request, std::byte{7})};
    late_call = request.header.call_id;
    late = AnswerTo(request, std::byte{9});
    return {};
  });
  Place("expert-0", worker.address(), identity_.AllExperts());
  const auto dispatch = Connect(milliseconds(20'000));
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  const auto short_call = MakeCall(1, 2, 1);
  short_call->origins[0].remaining_ms = 5;
  short_call->origins[1].remaining_ms = 30;
  const auto start = std::chrono::steady_clock::now();
  const ExpertOutcome outcome = Run(*dispatch, *short_call);
  const auto took = std::chrono::steady_clock::now() - start;
  EXPECT_GE(took, milliseconds(30));  // the longest deadline of the call
  EXPECT_LT(took, milliseconds(5000));
  ASSERT_EQ(outcome.failed.size(), 2u);
  for (const FailedToken& failed : outcome.failed) {
    EXPECT_EQ(failed.status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(std::string(failed.status.message()),
                HasSubstr(": the request's deadline passed before expert-0 answered"));
  }
  // The same stream carries the next call, after the late answer.
  EXPECT_TRUE(dispatch->Missing().empty());
  const auto next_call = MakeCall(1, 2, 2);
  EXPECT_TRUE(Run(*dispatch, *next_call).failed.empty());
  EXPECT_EQ(next_call->results, std::vector<std::byte>(next_call->results.size(), std::byte{7}));
  EXPECT_EQ(num_cancels, 1);
  EXPECT_EQ(worker.num_streams(), 1);
  EXPECT_EQ(worker.num_cancelled(), 0);
  EXPECT_FALSE(CountedCallErrors());
}

// A process that is stopped keeps its connections, and answers nothing more.
class FrozenWorker {
 public:
  explicit FrozenWorker(std::vector<std::byte> hello)
      : hello_(std::move(hello)), worker_([this](const rpc::ParsedFrame&) { return Answer(); }) {}
  void Freeze(bool frozen) { frozen_ = frozen; }
  ScriptedWorker* operator->() { return &worker_; }

 private:
  std::vector<std::vector<std::byte>> Answer() const {
    if (frozen_) return {};
    return {hello_};
  }
  const std::vector<std::byte> hello_;
  std::atomic<bool> frozen_{false};
  ScriptedWorker worker_;
};

TEST_F(RemoteDispatchTest, SilenceIsCountedOverCallsThatEndBefore) {
  FrozenWorker worker(Hello());
  Place("expert-0", worker->address(), identity_.AllExperts());
  const auto dispatch = Connect(milliseconds(400));
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  worker.Freeze(true);
  // Each request ends long before the limit of silence.
  const auto start = std::chrono::steady_clock::now();
  while (dispatch->Missing().empty()) {
    const auto memory = MakeCall(1, 1, 1);
    memory->origins[0].remaining_ms = 30;
    EXPECT_EQ(Run(*dispatch, *memory).failed.size(), 1u);
    ASSERT_LT(std::chrono::steady_clock::now() - start, milliseconds(5000));
  }
  worker.Freeze(false);
  EXPECT_TRUE(WaitForMissing(*dispatch, 0));
  EXPECT_GE(worker->num_streams(), 2);
}

TEST_F(RemoteDispatchTest, AFrozenWorkerIsNoticedWhileNothingIsAskedOfIt) {
  FrozenWorker worker(Hello());
  Place("expert-0", worker->address(), identity_.AllExperts());
  const auto dispatch = Connect(milliseconds(400));
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  worker.Freeze(true);
  EXPECT_TRUE(WaitForMissing(*dispatch, identity_.AllExperts().size()));
}

TEST_F(RemoteDispatchTest, AnIdleWorkerIsKept) {
  FrozenWorker worker(Hello());
  Place("expert-0", worker->address(), identity_.AllExperts());
  const auto dispatch = Connect(milliseconds(500));
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  // Longer than the limit of silence and the period of asking together.
  EXPECT_FALSE(WaitForMissing(*dispatch, identity_.AllExperts().size(), milliseconds(1800)));
  EXPECT_EQ(worker->num_streams(), 1);
}

TEST_F(RemoteDispatchTest, CallsAfterOnesWithoutTimeGiveTheSameBits) {
  AddWorker();
  const auto dispatch = Connect();
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  for (uint32_t seed = 1; seed <= 5; ++seed) {
    const auto hurried = MakeCall(1, 4000, seed);
    for (RowOrigin& origin : hurried->origins) origin.remaining_ms = 1;
    const ExpertOutcome outcome = Run(*dispatch, *hurried);
    EXPECT_FALSE(outcome.failed.empty());
    for (const FailedToken& failed : outcome.failed)
      EXPECT_EQ(failed.status.code(), absl::StatusCode::kDeadlineExceeded) << failed.status;
    ExpectServed(*dispatch, seed, 7);
  }
  EXPECT_FALSE(CountedCallErrors());
}

TEST_F(RemoteDispatchTest, LateAndForeignAnswersAreDropped) {
  // Every request is answered twice, the second time for a call that has ended.
  const auto hello = Hello();
  std::vector<std::byte> last_answer;
  ScriptedWorker worker([&](const rpc::ParsedFrame& frame) -> std::vector<std::vector<std::byte>> {
    if (std::holds_alternative<rpc::HelloFrame>(frame)) return {hello};
    const auto* request = std::get_if<rpc::ParsedRequest>(&frame);
    if (request == nullptr) return {};
    const std::vector<std::byte> answer = AnswerTo(*request, std::byte{7});
    std::vector<std::vector<std::byte>> frames = {answer, answer};
    if (!last_answer.empty()) frames.insert(frames.begin(), last_answer);
    last_answer = answer;
    return frames;
  });
  Place("expert-0", worker.address(), identity_.AllExperts());
  const auto dispatch = Connect();
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const auto memory = MakeCall(1, 2, seed);
    EXPECT_TRUE(Run(*dispatch, *memory).failed.empty());
    EXPECT_EQ(memory->results, std::vector<std::byte>(memory->results.size(), std::byte{7}));
  }
}

TEST_F(RemoteDispatchTest, AnswersToWhatWasNotAskedFailTheCallAndTheStream) {
  const auto hello = Hello();
  ScriptedWorker worker([&](const rpc::ParsedFrame& frame) -> std::vector<std::vector<std::byte>> {
    if (std::holds_alternative<rpc::HelloFrame>(frame)) return {hello};
    const auto* request = std::get_if<rpc::ParsedRequest>(&frame);
    if (request == nullptr) return {};
    const std::vector<rpc::Answer> answers = {{1000, rpc::AnswerStatus::kNotHeld}};
    rpc::ResultsHeader header;
    header.call_id = request->header.call_id;
    header.row_type = request->header.row_type;
    header.layer = request->header.layer;
    header.hidden = request->header.hidden;
    std::vector<std::byte> answer(rpc::ResultsFrameBytes(header, 1));
    rpc::EncodeResults(header, answers, answer);
    return {answer};
  });
  Place("expert-0", worker.address(), identity_.AllExperts());
  const auto dispatch = Connect();
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  const ExpertOutcome outcome = Run(*dispatch, *MakeCall(1, 1, 1));
  ASSERT_EQ(outcome.failed.size(), 1u);
  EXPECT_THAT(std::string(outcome.failed[0].status.message()),
              HasSubstr("answered what was not asked"));
}

TEST_F(RemoteDispatchTest, AWorkerOfAnotherModelIsNotUsed) {
  const auto other = expert::OpenGolden("olmoe");
  ServedExperts worker(other, {});
  Place("expert-0", worker.address(), identity_.AllExperts());
  const auto dispatch = Connect();
  const ExpertOutcome outcome = Run(*dispatch, *MakeCall(1, 1, 1));
  EXPECT_EQ(outcome.failed.size(), 1u);
  EXPECT_EQ(dispatch->Missing().size(), identity_.AllExperts().size());
}

TEST_F(RemoteDispatchTest, OnlyTheClustersSecretConnects) {
  const rpc::ClusterSecret secret("0123456789abcdef");
  AddWorker(0, 1, {.secret = secret});
  const auto right = Connect(milliseconds(5000), secret);
  ASSERT_TRUE(WaitForMissing(*right, 0));
  ExpectServed(*right);
  const auto wrong = Connect(milliseconds(5000), rpc::ClusterSecret("fedcba9876543210"));
  EXPECT_FALSE(WaitForMissing(*wrong, 0, milliseconds(500)));
}

// Its experts may be the right ones, and yet it answers to another controller.
TEST_F(RemoteDispatchTest, AWorkerOfAnotherClusterIsNotUsed) {
  AddWorker(0, 1, {.cluster = std::make_shared<rpc::ClusterId>("west")});
  EXPECT_FALSE(WaitForMissing(*Connect(milliseconds(5000), {}, "east"), 0, milliseconds(500)));
  const auto own = Connect(milliseconds(5000), {}, "west");
  ASSERT_TRUE(WaitForMissing(*own, 0));
  ExpectServed(*own);
}

TEST_F(RemoteDispatchTest, TopologiesAddAndTakeWorkers) {
  AddWorker(0, 2);
  const auto dispatch = Connect();
  ASSERT_TRUE(WaitForMissing(*dispatch, identity_.AllExperts().size() / 2));
  AddWorker(1, 2);
  dispatch->Apply(topology_);
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  ExpectServed(*dispatch);
  // The second worker takes over what the first one had.
  topology_.models[0].workers.erase(topology_.models[0].workers.begin());
  topology_.models[0].workers[0].serve = identity_.AllExperts();
  workers_[1]->Load(identity_.AllExperts());
  dispatch->Apply(topology_);
  workers_[0]->Kill();
  EXPECT_TRUE(dispatch->Missing().empty());
  ExpectServed(*dispatch);
}

TEST_F(RemoteDispatchTest, ExpertsThatNobodyIsGivenStayWithTheirLiveWorkers) {
  AddWorker();
  const auto dispatch = Connect();
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  dispatch->Apply({});
  EXPECT_TRUE(dispatch->Missing().empty());
  ExpectServed(*dispatch);
  workers_[0]->Kill();
  ASSERT_TRUE(WaitForMissing(*dispatch, identity_.AllExperts().size()));
  dispatch->Apply({});
  EXPECT_EQ(dispatch->Missing().size(), identity_.AllExperts().size());
}

TEST_F(RemoteDispatchTest, AWorkerThatTheControllerKnowsToHoldNothingIsNotCounted) {
  AddWorker();
  const auto dispatch = Connect();
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  // As after a restart at the same address: it has joined, and has nothing loaded yet.
  topology_.models[0].workers[0].serve.clear();
  dispatch->Apply(topology_);
  EXPECT_EQ(dispatch->Missing().size(), identity_.AllExperts().size());
}

TEST_F(RemoteDispatchTest, TellsWhatIsMissingWhenItChanges) {
  AddWorker();
  Mutex mutex;
  CondVar changed;
  std::vector<size_t> told;
  const auto dispatch =
      Connect(milliseconds(5000), {}, "", [&](const placement::ExpertKeys& missing) {
        MutexLock lock(mutex);
        told.push_back(missing.size());
        changed.NotifyAll();
      });
  const auto wait_for = [&](size_t wanted) {
    const auto deadline = std::chrono::steady_clock::now() + milliseconds(5000);
    MutexLock lock(mutex);
    while (told.empty() || told.back() != wanted) {
      if (!changed.WaitUntil(mutex, deadline)) return false;
    }
    return true;
  };
  EXPECT_TRUE(wait_for(0));
  workers_[0]->Kill();
  EXPECT_TRUE(wait_for(identity_.AllExperts().size()));
}

TEST_F(RemoteDispatchTest, CountsRowsCallsAndActiveExperts) {
  AddWorker();
  const auto dispatch = Connect();
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  ExpectServed(*dispatch, 1, 8);
  const std::string text = registry_.Expose();
  EXPECT_THAT(text, HasSubstr("conclave_expert_call_seconds_count{worker=\"expert-0\"} 1"));
  EXPECT_THAT(text, HasSubstr("conclave_active_expert_ratio_count 1"));
  EXPECT_THAT(text, HasSubstr("conclave_expert_rows_total{"));
  EXPECT_THAT(workers_[0]->registry().Expose(), HasSubstr("conclave_worker_frames_total 1"));
}

}  // namespace
}  // namespace conclave::engine
