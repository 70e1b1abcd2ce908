// Times between the tokens of a tenant's realtime requests, alone and beside another tenant whose
// batch requests take all that is left; with experts on workers, so that the order of frames
// is at work.
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "conclave/v1/inference.grpc.pb.h"
#include "services/cli/bench_cluster/bench_cluster.h"
#include "services/cli/gateway_bench/computed.h"
#include "services/cli/gateway_bench/row.h"
#include "services/cli/percentiles.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/status.h"

namespace conclave::cli {
namespace {

using std::chrono::steady_clock;

constexpr int kTurns = 3;
// Of each turn, alone and beside. The median part counts: one in which the machine did something
// else does not.
constexpr int kParts = 3;
constexpr int32_t kTokens = 64;
constexpr int32_t kBatchTokens = 128;
constexpr int32_t kBatchInFlight = 128;
// Of a turn beside the batch: until it has filled the engine.
constexpr double kWarmUp = 0.25;
constexpr std::chrono::seconds kPatience{60};

struct Times {
  std::vector<double> between, first;  // ms
};

// Percentiles of every part, ms.
struct Parts {
  std::vector<double> token_p50, token_p99, first_p99;
  void Add(const Times& times) {
    token_p50.push_back(Percentile(times.between, 50));
    token_p99.push_back(Percentile(times.between, 99));
    first_p99.push_back(Percentile(times.first, 99));
  }
};

// One realtime request after another.
absl::Status Ask(const RowContext& context, const rpc::Channel& channel, const std::string& key,
                 Duration duration, Times* times) {
  const auto stub = v1::InferenceService::NewStub(channel.grpc());
  const auto end = steady_clock::now() + duration;
  for (int64_t number = 0; steady_clock::now() < end && !context.interrupted->load(); ++number) {
    grpc::ClientContext call;
    channel.Prepare(&call, kPatience);
    call.AddMetadata("authorization", "Bearer " + key);
    auto last = steady_clock::now();
    const auto stream = stub->Generate(&call, Computed(number, kTokens, v1::QOS_CLASS_REALTIME));
    v1::GenerateEvent event;
    bool first = true;
    while (stream->Read(&event)) {
      if (!event.has_tokens()) continue;
      const auto now = steady_clock::now();
      (first ? times->first : times->between)
          .push_back(std::chrono::duration<double, std::milli>(now - last).count());
      first = false;
      last = now;
    }
    RETURN_IF_ERROR(rpc::FromGrpc(stream->Finish()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Figure>> MeasureRealtime(const RowContext& context) {
  context.progress("starts a cluster with two workers");
  ASSIGN_OR_RETURN(const auto cluster,
                   BenchCluster::Start({.model = context.model,
                                        .tenants = {{.name = "realtime"}, {.name = "batch"}},
                                        .flags = {"--workers", "2"},
                                        .interrupted = context.interrupted}));
  const rpc::Channel channel({.address = cluster->grpc_address(), .secret = {}});
  const double turn = context.seconds / kTurns;
  Parts alone, beside;
  int64_t batch_tokens = 0;
  double batch_seconds = 0;
  const auto ask_in_parts = [&](Parts* parts) -> absl::Status {
    for (int i = 0; i < kParts; ++i) {
      Times times;
      RETURN_IF_ERROR(Ask(context, channel, cluster->key(0), FromSeconds(turn / kParts), &times));
      parts->Add(times);
    }
    return absl::OkStatus();
  };
  Times warming;
  RETURN_IF_ERROR(Ask(context, channel, cluster->key(0), FromSeconds(turn / 4), &warming));
  for (int i = 0; i < kTurns; ++i) {
    context.progress("alone");
    RETURN_IF_ERROR(ask_in_parts(&alone));
    context.progress("beside a batch");
    ComputedLoad batch(*cluster, {.tenant = 1, .tokens = kBatchTokens, .qos = v1::QOS_CLASS_BATCH});
    const LoadOptions load = {.in_flight = kBatchInFlight,
                              .duration = FromSeconds(turn * (1 + kWarmUp)),
                              .interrupted = context.interrupted};
    LoadResult of_batch;
    double batch_took = 0;
    std::thread other([&] {
      const auto start = steady_clock::now();
      of_batch = RunLoad(load, batch.sender());
      batch_took = std::chrono::duration<double>(steady_clock::now() - start).count();
    });
    std::this_thread::sleep_for(FromSeconds(turn * kWarmUp));
    const absl::Status asked = ask_in_parts(&beside);
    other.join();
    RETURN_IF_ERROR(asked);
    RETURN_IF_ERROR(of_batch.first_error);
    batch_tokens += static_cast<int64_t>(of_batch.latencies.size()) * kBatchTokens;
    batch_seconds += batch_took;
  }
  const double p99_alone = Median(alone.token_p99);
  const double p99_beside = Median(beside.token_p99);
  return std::vector<Figure>{
      {.name = "token P99, beside over alone",
       .value = p99_beside / p99_alone,
       .unit = "times",
       .most = 1.3},
      {.name = "token P99, alone", .value = p99_alone, .unit = "ms"},
      {.name = "token P99, beside", .value = p99_beside, .unit = "ms"},
      {.name = "token P50, alone", .value = Median(alone.token_p50), .unit = "ms"},
      {.name = "token P50, beside", .value = Median(beside.token_p50), .unit = "ms"},
      {.name = "first token P99, alone", .value = Median(alone.first_p99), .unit = "ms"},
      {.name = "first token P99, beside", .value = Median(beside.first_p99), .unit = "ms"},
      {.name = "the batch's speed",
       .value = static_cast<double>(batch_tokens) / batch_seconds,
       .unit = "tokens / s"}};
}

}  // namespace conclave::cli
