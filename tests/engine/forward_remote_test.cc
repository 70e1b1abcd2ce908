// Experts in one worker or in three, reached over gRPC, give the bits of experts in the engine's
// own process: every family and class.

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "services/engine/dispatch/remote_dispatch.h"
#include "tests/expert/served_experts.h"
#include "tests/support/invariance.h"
#include "tests/support/wait.h"

namespace conclave::testing {
namespace {

using kernels::NumericsClass;

// Workers on free ports that share the experts of a model among them.
class Workers {
 public:
  Workers(const LoadedModel& model, int num_workers)
      : identity_(expert::IdentityOf(*model.checkpoint, model.numerics())) {
    topology_.models.push_back({identity_, {}});
    for (int w = 0; w < num_workers; ++w) {
      expert::ServedExperts::Options options;
      options.name = "expert-" + std::to_string(w);
      options.numerics = model.numerics();
      workers_.push_back(std::make_unique<expert::ServedExperts>(model.checkpoint, options));
      placement::ExpertKeys keys;
      for (const placement::ExpertKey& key : identity_.AllExperts()) {
        if (key.expert % num_workers == w) keys.insert(key);
      }
      workers_.back()->Load(keys);
      placement::TopologyWorker worker;
      worker.name = options.name;
      worker.address = workers_.back()->address();
      worker.live = true;
      worker.hold = worker.serve = keys;
      topology_.models.front().workers.push_back(worker);
    }
  }

  // A connected dispatch, each time another.
  DispatchFactory Dispatch() {
    return [this](const LoadedModel& model, kernels::Context&) {
      auto dispatch = engine::RemoteDispatch::Create(
          {.engine_name = "engine-0",
           .model = identity_,
           .numerics = model.numerics(),
           .secret = {},
           .cluster = {},
           .call_timeout = std::chrono::seconds(20),  // a loaded machine is not a lost worker
           .registry = &registry_});
      EXPECT_TRUE(dispatch.ok()) << dispatch.status();
      (*dispatch)->Apply(topology_);
      EXPECT_TRUE(conclave::testing::WaitFor([&] { return (*dispatch)->Missing().empty(); }));
      return *std::move(dispatch);
    };
  }

 private:
  metrics::Registry registry_;
  const placement::ModelIdentity identity_;
  placement::Topology topology_;
  std::vector<std::unique_ptr<expert::ServedExperts>> workers_;
};

class ForwardRemoteTest : public ::testing::TestWithParam<std::tuple<const char*, NumericsClass>> {
};

TEST_P(ForwardRemoteTest, WorkersGiveTheBitsOfThisProcess) {
  const auto& [folder, numerics] = GetParam();
  auto model = LoadModel(std::string(CONCLAVE_SOURCE_DIR "/tests/golden/") + folder, numerics);
  ASSERT_TRUE(model.ok()) << model.status();
  const InvarianceCase expected =
      MakeInvarianceCase(*std::move(model), {40, 1, 17, 5, 33, 2, 9, 26}, 4);
  for (const int num_workers : {1, 3}) {
    SCOPED_TRACE(num_workers);
    Workers workers(*expected.model, num_workers);
    const RigOptions options{.dispatch = workers.Dispatch()};
    ExpectSameAlone(expected, options, 7);
    ExpectSameInBatch(expected, options, {64});
    ExpectSameInBatch(expected, options, {7, 1, 13});
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families, ForwardRemoteTest,
    ::testing::Combine(::testing::Values("deepseek_v2_lite", "deepseek_v2_full", "deepseek_v3",
                                         "mixtral", "qwen2_moe", "qwen3_moe", "olmoe"),
                       ::testing::ValuesIn(kernels::kNumericsClasses)),
    [](const auto& info) {
      return std::string(std::get<0>(info.param)) + "_" +
             std::string(kernels::NumericsClassName(std::get<1>(info.param)));
    });

}  // namespace
}  // namespace conclave::testing
