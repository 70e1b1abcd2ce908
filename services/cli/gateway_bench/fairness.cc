// What two tenants of the same class get of an engine when both want more than their share and one
// of them has 20 times as many requests waiting.
#include <cmath>
#include <thread>

#include "absl/strings/str_cat.h"
#include "services/cli/bench_cluster/bench_cluster.h"
#include "services/cli/gateway_bench/computed.h"
#include "services/cli/gateway_bench/row.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

constexpr int32_t kTokens = 16;
constexpr int32_t kRunning = 16;  // requests at once on the engine
// That the modest tenant has under way: more than all that run, so that some of its requests wait
// even when all have ended at once.
constexpr int32_t kModest = 64;
constexpr int32_t kTimes = 20;
// Of the time: until both queues are as long as they stay.
constexpr double kWarmUp = 0.2;
// The first tenant asks for much, each other one in turn for little.
constexpr double kWeights[] = {1, 1, 3};

}  // namespace

absl::StatusOr<std::vector<Figure>> MeasureFairness(const RowContext& context) {
  context.progress("starts a cluster");
  BenchClusterOptions options = {
      .model = context.model,
      .tenants = {},
      .flags = {"--workers", "0", "--gateway-max-running", absl::StrCat(kRunning),
                "--gateway-max-waiting", absl::StrCat(2 * kTimes * kModest)},
      .interrupted = context.interrupted};
  for (const double weight : kWeights) {
    options.tenants.push_back(
        {.name = absl::StrCat("tenant-", options.tenants.size()), .weight = weight});
  }
  ASSIGN_OR_RETURN(const auto cluster, BenchCluster::Start(options));
  std::vector<Figure> figures;
  for (size_t modest = 1; modest < std::size(kWeights); ++modest) {
    const double weight = kWeights[modest];
    context.progress(absl::StrCat("weights ", weight, " and ", kWeights[0]));
    ComputedLoad much(*cluster, {.tenant = 0, .tokens = kTokens});
    ComputedLoad little(*cluster, {.tenant = modest, .tokens = kTokens});
    LoadOptions load = {.in_flight = kTimes * kModest,
                        .duration = FromSeconds(context.seconds),
                        .interrupted = context.interrupted};
    LoadResult of_much;
    std::thread other([&] { of_much = RunLoad(load, much.sender()); });
    LoadOptions small = load;
    small.in_flight = kModest;
    const LoadResult of_little = RunLoad(small, little.sender());
    other.join();
    RETURN_IF_ERROR(of_little.first_error);
    RETURN_IF_ERROR(of_much.first_error);
    const double from = kWarmUp * context.seconds;
    const auto got = static_cast<double>(EndedWithin(of_little, from, context.seconds));
    const double all = got + static_cast<double>(EndedWithin(of_much, from, context.seconds));
    if (all == 0) return absl::FailedPreconditionError("nothing was answered; give more --seconds");
    const double due = 100 * weight / (weight + kWeights[0]);
    const double share = 100 * got / all;
    const std::string name = absl::StrCat("weight ", weight, " beside ", kWeights[0]);
    figures.push_back({.name = name + ", off its due share",
                       .value = 100 * std::abs(share / due - 1),
                       .unit = "%",
                       .most = 5});
    figures.push_back({.name = name + ", share", .value = share, .unit = "% of tokens"});
    figures.push_back({.name = name + ", all tokens",
                       .value = all * kTokens / ((1 - kWarmUp) * context.seconds),
                       .unit = "tokens / s"});
  }
  return figures;
}

}  // namespace conclave::cli
