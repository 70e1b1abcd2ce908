// The time of one expert call, from Begin to the end of Finish: in this process, over a Unix
// socket, and over TCP. Experts of 96 x 32 elements compute in microseconds, so this is what the
// transport costs.
//
//   build/tests/dispatch_bench --benchmark_min_time=1
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "services/engine/dispatch/local_dispatch.h"
#include "services/engine/dispatch/remote_dispatch.h"
#include "shared/shm/host_socket.h"
#include "tests/expert/served_experts.h"
#include "tests/support/temp_dir.h"

namespace conclave::engine {
namespace {

constexpr kernels::NumericsClass kClass = kernels::NumericsClass::kBf16;
constexpr int32_t kLayer = 1;

// One token's worth of memory for each of `num_tokens` tokens; token t goes to experts t, t + 1,
// ...
struct CallMemory {
  CallMemory(const weights::ModelConfig& config, int64_t num_tokens)
      : rows(num_tokens * config.hidden * 2),
        results(rows.size() * config.moe.top_k),
        origins(num_tokens) {
    for (int64_t token = 0; token < num_tokens; ++token) {
      for (int32_t k = 0; k < config.moe.top_k; ++k) {
        expert_ids.push_back(static_cast<int32_t>((token + k) % config.moe.num_experts));
      }
    }
    call = {.layer = kLayer,
            .num_tokens = num_tokens,
            .hidden = config.hidden,
            .top_k = config.moe.top_k,
            .row_type = kernels::RowTypeOf(kClass),
            .rows = rows.data(),
            .expert_ids = expert_ids,
            .results = results.data(),
            .origins = origins,
            .traceparent = {}};
  }
  std::vector<std::byte> rows, results;
  std::vector<RowOrigin> origins;
  std::vector<int32_t> expert_ids;
  ExpertCall call;
};

void RunCalls(benchmark::State& state, ExpertDispatch& dispatch,
              const weights::ModelConfig& config) {
  CallMemory memory(config, state.range(0));
  for (auto _ : state) {
    dispatch.Begin(memory.call);
    const ExpertOutcome outcome = dispatch.Finish();
    if (!outcome.failed.empty()) {
      state.SkipWithError(std::string(outcome.failed.front().status.message()).c_str());
      break;
    }
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

void RunRemote(benchmark::State& state, const std::string& listen, int num_workers,
               bool shared_memory = false) {
  const conclave::testing::TempDir folder;
  const auto checkpoint = expert::OpenGolden("qwen2_moe");
  const placement::ModelIdentity identity = expert::IdentityOf(*checkpoint, kClass);
  placement::Topology topology;
  topology.models.push_back({identity, {}});
  std::vector<std::unique_ptr<expert::ServedExperts>> workers;
  for (int i = 0; i < num_workers; ++i) {
    expert::ServedExperts::Options options;
    options.name = "expert-" + std::to_string(i);
    options.listen = listen.starts_with("unix:") ? listen + std::to_string(i) : listen;
    if (shared_memory) options.host_path = folder.path() / options.name;
    workers.push_back(std::make_unique<expert::ServedExperts>(checkpoint, options));
    placement::TopologyWorker worker{.name = options.name,
                                     .address = workers.back()->address(),
                                     .host = "",
                                     .host_socket = {shm::HostId(), options.host_path},
                                     .live = true,
                                     .hold = {},
                                     .serve = {}};
    for (const placement::ExpertKey& key : identity.AllExperts()) {
      if (key.expert % num_workers == i) worker.serve.insert(key);
    }
    workers.back()->Load(worker.serve);
    topology.models.front().workers.push_back(worker);
  }
  auto dispatch = RemoteDispatch::Create({.engine_name = "engine-0",
                                          .model = identity,
                                          .numerics = kClass,
                                          .host_id = shared_memory ? shm::HostId() : ""});
  (*dispatch)->Apply(topology);
  while (!(*dispatch)->Missing().empty()) std::this_thread::yield();
  RunCalls(state, **dispatch, checkpoint->config());
}

void Local(benchmark::State& state) {
  const auto checkpoint = expert::OpenGolden("qwen2_moe");
  experts::ExpertSet experts(checkpoint, kClass);
  for (int32_t expert = 0; expert < checkpoint->config().moe.num_experts; ++expert) {
    if (!experts.Load({kLayer, expert}).ok()) state.SkipWithError("cannot load");
  }
  kernels::Context context(kernels::BestCpuLevel(), 1);
  SteadyClock clock;
  LocalDispatch dispatch(&experts, &clock, &context);
  RunCalls(state, dispatch, checkpoint->config());
}

void Tcp(benchmark::State& state) {
  RunRemote(state, "127.0.0.1:0", static_cast<int>(state.range(1)));
}
void Unix(benchmark::State& state) {
  RunRemote(state, "unix:/tmp/conclave-dispatch-bench-" + std::to_string(getpid()) + "-",
            static_cast<int>(state.range(1)));
}

void SharedMemory(benchmark::State& state) {
  RunRemote(state, "127.0.0.1:0", static_cast<int>(state.range(1)), true);
}

BENCHMARK(Local)->Arg(1)->Arg(8)->Arg(256)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(SharedMemory)
    ->ArgNames({"tokens", "workers"})
    ->ArgsProduct({{1, 8, 256}, {1, 2}})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(Unix)
    ->ArgNames({"tokens", "workers"})
    ->ArgsProduct({{1, 8, 256}, {1, 2}})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(Tcp)
    ->ArgNames({"tokens", "workers"})
    ->ArgsProduct({{1, 8, 256}, {1, 2}})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace conclave::engine

BENCHMARK_MAIN();
