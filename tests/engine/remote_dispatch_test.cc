#include "services/engine/dispatch/remote_dispatch.h"

#include <chrono>
#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/engine/dispatch/local_dispatch.h"
#include "tests/expert/scripted_worker.h"
#include "tests/expert/served_experts.h"

namespace conclave::engine {
namespace {

using expert::ScriptedWorker;
using expert::ServedExperts;
using placement::ExpertKey;
using placement::ExpertKeys;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

// What a call computes, with the memory it refers to.
struct CallMemory {
  std::vector<std::byte> rows, results;
  std::vector<int32_t> expert_ids;
  std::vector<RowOrigin> origins;
  ExpertCall call;
};

class RemoteDispatchTest : public ::testing::TestWithParam<kernels::NumericsClass> {
 protected:
  RemoteDispatchTest() : checkpoint_(expert::OpenGolden("qwen2_moe")) {
    SetNumerics(kernels::NumericsClass::kBf16);
  }

  void SetNumerics(kernels::NumericsClass numerics) {
    numerics_ = numerics;
    identity_ = expert::IdentityOf(*checkpoint_, numerics);
  }

  // A worker that serves, and has loaded, every `stride`-th expert from `first` on.
  ServedExperts& AddWorker(int first = 0, int stride = 1, ServedExperts::Options options = {}) {
    options.name = "expert-" + std::to_string(workers_.size());
    options.numerics = numerics_;
    workers_.push_back(std::make_unique<ServedExperts>(checkpoint_, options));
    ExpertKeys keys;
    for (const ExpertKey& key : identity_.AllExperts()) {
      if (key.expert % stride == first) keys.insert(key);
    }
    workers_.back()->Load(keys);
    Place(options.name, workers_.back()->address(), keys);
    return *workers_.back();
  }

  void Place(const std::string& name, const std::string& address, const ExpertKeys& keys) {
    if (topology_.models.empty()) topology_.models.push_back({identity_, {}});
    placement::TopologyWorker worker;
    worker.name = name;
    worker.address = address;
    worker.live = true;
    worker.hold = worker.serve = keys;
    topology_.models.front().workers.push_back(worker);
  }

  std::unique_ptr<RemoteDispatch> Connect(milliseconds call_timeout = milliseconds(5000),
                                          rpc::ClusterSecret secret = {}) {
    auto dispatch = RemoteDispatch::Create({.engine_name = "engine-0",
                                            .model = identity_,
                                            .numerics = numerics_,
                                            .secret = std::move(secret),
                                            .call_timeout = call_timeout,
                                            .registry = &registry_});
    EXPECT_TRUE(dispatch.ok()) << dispatch.status();
    (*dispatch)->Apply(topology_);
    return *std::move(dispatch);
  }

  // Waits until exactly so many experts are missing.
  static bool WaitForMissing(const RemoteDispatch& dispatch, size_t count,
                             milliseconds timeout = milliseconds(5000)) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    while (dispatch.Missing().size() != count) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return true;
  }

  std::unique_ptr<CallMemory> MakeCall(int32_t layer, int64_t num_tokens, uint32_t seed) const {
    auto memory = std::make_unique<CallMemory>();
    const int64_t hidden = checkpoint_->config().hidden;
    const int32_t top_k = checkpoint_->config().moe.top_k;
    const kernels::RowType type = kernels::RowTypeOf(numerics_);
    const size_t row_bytes = hidden * kernels::RowTypeBytes(type);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(num_tokens * hidden);
    for (float& value : values) value = normal(random);
    memory->rows.resize(num_tokens * row_bytes);
    kernels::RoundRows(type, kernels::DenseView<const float>(values.data(), num_tokens, hidden),
                       memory->rows.data());
    memory->results.assign(num_tokens * top_k * row_bytes, std::byte{0xee});
    for (int64_t token = 0; token < num_tokens; ++token) {
      std::vector<int32_t> experts(identity_.num_experts);
      for (int32_t e = 0; e < identity_.num_experts; ++e) experts[e] = e;
      std::shuffle(experts.begin(), experts.end(), random);
      memory->expert_ids.insert(memory->expert_ids.end(), experts.begin(), experts.begin() + top_k);
    }
    memory->origins.resize(num_tokens);
    memory->call = {.layer = layer,
                    .num_tokens = num_tokens,
                    .hidden = hidden,
                    .top_k = top_k,
                    .row_type = type,
                    .rows = memory->rows.data(),
                    .expert_ids = memory->expert_ids,
                    .results = memory->results.data(),
                    .origins = memory->origins,
                    .traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"};
    return memory;
  }

  // What the same code computes in this process.
  std::vector<std::byte> LocalResults(int32_t layer, int64_t num_tokens, uint32_t seed) {
    if (local_experts_ == nullptr) {
      local_experts_ = std::make_unique<experts::ExpertSet>(checkpoint_, numerics_);
      for (const ExpertKey& key : identity_.AllExperts()) {
        EXPECT_TRUE(local_experts_->Load({key.layer, key.expert}).ok());
      }
    }
    kernels::Context context(kernels::BestCpuLevel(), 1);
    LocalDispatch local(local_experts_.get(), &clock_, &context);
    const auto memory = MakeCall(layer, num_tokens, seed);
    local.Begin(memory->call);
    EXPECT_TRUE(local.Finish().failed.empty());
    return memory->results;
  }

  std::vector<std::byte> Hello() const {
    rpc::HelloFrame hello;
    hello.fingerprint = *rpc::ParseFingerprint(identity_.fingerprint);
    hello.numerics = numerics_;
    hello.row_type = kernels::RowTypeOf(numerics_);
    hello.name = "scripted";
    return rpc::EncodeHello(hello);
  }

  static ExpertOutcome Run(RemoteDispatch& dispatch, CallMemory& memory) {
    dispatch.Begin(memory.call);
    return dispatch.Finish();
  }

  void ExpectServed(RemoteDispatch& dispatch, uint32_t seed = 1, int64_t num_tokens = 3) {
    const auto memory = MakeCall(1, num_tokens, seed);
    const ExpertOutcome outcome = Run(dispatch, *memory);
    for (const FailedToken& failed : outcome.failed)
      ADD_FAILURE() << failed.token << ": " << failed.status;
    EXPECT_EQ(memory->results, LocalResults(1, num_tokens, seed));
  }

  SteadyClock clock_;
  metrics::Registry registry_;
  std::shared_ptr<const weights::Checkpoint> checkpoint_;
  kernels::NumericsClass numerics_;
  placement::ModelIdentity identity_;
  placement::Topology topology_;
  std::vector<std::unique_ptr<ServedExperts>> workers_;
  std::unique_ptr<experts::ExpertSet> local_experts_;
};

INSTANTIATE_TEST_SUITE_P(Classes, RemoteDispatchTest,
                         ::testing::Values(kernels::NumericsClass::kBf16,
                                           kernels::NumericsClass::kF32),
                         [](const auto& info) {
                           return std::string(kernels::NumericsClassName(info.param));
                         });

TEST_P(RemoteDispatchTest, OneAndThreeWorkersGiveTheBitsOfThisProcess) {
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
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
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
  const auto deadline = std::chrono::steady_clock::now() + milliseconds(5000);
  while (worker.num_streams() < 2 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(milliseconds(1));
  EXPECT_GE(worker.num_streams(), 2);
  EXPECT_GE(worker.num_cancelled(), 1);
}

TEST_F(RemoteDispatchTest, LateAndForeignAnswersAreDropped) {
  // Every request is answered twice, the second time for a call that has ended.
  const auto hello = Hello();
  std::vector<std::byte> last_answer;
  ScriptedWorker worker([&](const rpc::ParsedFrame& frame) -> std::vector<std::vector<std::byte>> {
    if (std::holds_alternative<rpc::HelloFrame>(frame)) return {hello};
    const auto* request = std::get_if<rpc::ParsedRequest>(&frame);
    if (request == nullptr) return {};
    std::vector<rpc::Answer> answers;
    for (uint32_t i = 0; i < request->references.size(); ++i)
      answers.push_back({i, rpc::AnswerStatus::kOk});
    rpc::ResultsHeader header;
    header.call_id = request->header.call_id;
    header.row_type = request->header.row_type;
    header.last = true;
    header.layer = request->header.layer;
    header.hidden = request->header.hidden;
    header.num_rows = static_cast<uint32_t>(answers.size());
    std::vector<std::byte> answer(rpc::ResultsFrameBytes(header, answers.size()), std::byte{7});
    rpc::EncodeResults(header, answers, answer);
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
