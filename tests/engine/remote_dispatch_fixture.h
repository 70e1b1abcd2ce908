// Engines and workers in one process, for the tests of RemoteDispatch: real servers on free ports,
// and what the same rows give without them. Each test runs twice, over gRPC and, as another
// program (CONCLAVE_HOST_LINKS), through shared memory.
#pragma once

#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/engine/dispatch/local_dispatch.h"
#include "services/engine/dispatch/remote_dispatch.h"
#include "shared/shm/host_socket.h"
#include "tests/expert/scripted_worker.h"
#include "tests/expert/served_experts.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace conclave::engine {

using conclave::testing::WaitFor;
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

// Frames that a worker has taken so far.
inline int FramesOf(ServedExperts& worker) {
  const std::string text = worker.registry().Expose();
  const std::string name = "\nconclave_worker_frames_total ";
  const size_t at = text.find(name);
  return at == std::string::npos ? 0 : std::stoi(text.substr(at + name.size()));
}

#ifdef CONCLAVE_HOST_LINKS
inline constexpr bool kHostLinks = true;
#else
inline constexpr bool kHostLinks = false;
#endif

class RemoteDispatchFixture : public ::testing::Test {
 protected:
  RemoteDispatchFixture() : checkpoint_(expert::OpenGolden("qwen2_moe")) {
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
    if (kHostLinks) options.host_path = folder_.path() / options.name;
    workers_.push_back(std::make_unique<ServedExperts>(checkpoint_, options));
    ExpertKeys keys;
    for (const ExpertKey& key : identity_.AllExperts()) {
      if (key.expert % stride == first) keys.insert(key);
    }
    workers_.back()->Load(keys);
    Place(options.name, workers_.back()->address(), keys, options.host_path);
    return *workers_.back();
  }

  void Place(const std::string& name, const std::string& address, const ExpertKeys& keys,
             const std::string& host_path = "") {
    if (topology_.models.empty()) topology_.models.push_back({identity_, {}});
    placement::TopologyWorker worker;
    worker.name = name;
    worker.address = address;
    if (!host_path.empty()) worker.host_socket = {shm::HostId(), host_path};
    worker.live = true;
    worker.hold = worker.serve = keys;
    topology_.models.front().workers.push_back(worker);
  }

  std::unique_ptr<RemoteDispatch> Connect(
      milliseconds call_timeout = milliseconds(5000), rpc::ClusterSecret secret = {},
      const std::string& cluster = "",
      decltype(RemoteDispatch::Options::on_missing) on_missing = {}) {
    auto dispatch = RemoteDispatch::Create({.engine_name = "engine-0",
                                            .model = identity_,
                                            .numerics = numerics_,
                                            .secret = std::move(secret),
                                            .cluster = std::make_shared<rpc::ClusterId>(cluster),
                                            .host_id = kHostLinks ? shm::HostId() : "",
                                            .call_timeout = call_timeout,
                                            .registry = &registry_,
                                            .on_missing = std::move(on_missing)});
    EXPECT_TRUE(dispatch.ok()) << dispatch.status();
    (*dispatch)->Apply(topology_);
    return *std::move(dispatch);
  }

  // Waits until exactly so many experts are missing.
  static bool WaitForMissing(const RemoteDispatch& dispatch, size_t count,
                             milliseconds timeout = milliseconds(5000)) {
    return WaitFor([&] { return dispatch.Missing().size() == count; }, timeout);
  }

  // Calls until every worker has had a frame: from then on the dispatch is connected to all of
  // them.
  void UseAllWorkers(RemoteDispatch& dispatch) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    for (auto& worker : workers_) {
      while (FramesOf(*worker) == 0) {
        ASSERT_LT(std::chrono::steady_clock::now(), deadline);
        Run(dispatch, *MakeCall(1, 16, 1));
      }
    }
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
  // Whether a call failed, of whatever reason: a counter that is not zero.
  bool CountedCallErrors() {
    const std::string metrics = registry_.Expose();
    const std::string name = "\nconclave_expert_call_errors_total{";
    for (size_t at = metrics.find(name); at != std::string::npos; at = metrics.find(name, at + 1)) {
      const size_t value = metrics.find("} ", at) + 2;
      if (metrics.substr(value, metrics.find('\n', value) - value) != "0") return true;
    }
    return false;
  }

  const conclave::testing::TempDir folder_;
  metrics::Registry registry_;
  std::shared_ptr<const weights::Checkpoint> checkpoint_;
  kernels::NumericsClass numerics_;
  placement::ModelIdentity identity_;
  placement::Topology topology_;
  std::vector<std::unique_ptr<ServedExperts>> workers_;
  std::unique_ptr<experts::ExpertSet> local_experts_;
};

}  // namespace conclave::engine
