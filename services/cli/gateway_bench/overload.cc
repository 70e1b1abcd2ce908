// Five times as many requests as can be answered, of all classes: what is still answered, what
// realtime requests and those refused see of it, and how soon all is normal again.
#include <algorithm>
#include <chrono>
#include <deque>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cli/bench_cluster/bench_cluster.h"
#include "services/cli/gateway_bench/computed.h"
#include "services/cli/gateway_bench/core_split.h"
#include "services/cli/gateway_bench/row.h"
#include "services/cli/percentiles.h"
#include "shared/base/limits.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

constexpr int32_t kTokens = 64;
constexpr double kTimes = 5;
// With the default of 5 s a minute.
constexpr double kOverloadShare = 12;
// Before and after it: at the rate of realtime requests fewer have no 99th percentile.
constexpr double kAloneShare = 2;
constexpr double kAfterSeconds = 8;
constexpr std::chrono::milliseconds kPoll{50};
// Of the requests that can be answered, what is sent of realtime ones.
constexpr double kRealtimeShare = 0.1;
// Of what is sent beside them.
constexpr double kShares[] = {0.25, 0.35, 0.4};
constexpr v1::QosClass kClasses[] = {v1::QOS_CLASS_INTERACTIVE, v1::QOS_CLASS_BATCH,
                                     v1::QOS_CLASS_SHEDDABLE};
// Requests of each of these classes at once, for what can be answered: together more than run.
constexpr int32_t kInFlight = 32;
constexpr int32_t kRunning = 48;
constexpr std::chrono::milliseconds kTimeout{2000};
// All is normal when the median of so long is below so many times the 99th percentile of before.
constexpr double kWindowSeconds = 0.5;
constexpr double kSlower = 1.2;

struct Sent {
  LoadResult realtime;
  std::vector<LoadResult> others;
};

class Mix {
 public:
  Mix(const RowContext& context, const BenchCluster& cluster)
      : context_(context), realtime_(cluster, {.tokens = kTokens, .qos = v1::QOS_CLASS_REALTIME}) {
    for (const v1::QosClass qos : kClasses) {
      others_.emplace_back(
          cluster, ComputedLoad::Options{.tokens = kTokens, .qos = qos, .timeout = kTimeout});
    }
  }

  LoadResult Realtime(double rate, double seconds) {
    return RunLoad(
        {.rate = rate, .duration = FromSeconds(seconds), .interrupted = context_.interrupted},
        realtime_.sender());
  }

  // `rate` of all classes but realtime, or as many as can be answered if it is 0; realtime ones,
  // and a few interactive ones, for `after` seconds more.
  Sent Run(double realtime_rate, double rate, double seconds, double after) {
    Sent sent;
    sent.others.resize(std::size(kClasses) + 1);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < std::size(kClasses); ++i) {
      threads.emplace_back([&, i] {
        LoadOptions load = {.duration = FromSeconds(seconds), .interrupted = context_.interrupted};
        if (rate > 0) {
          load.rate = rate * kShares[i];
        } else {
          load.in_flight = kInFlight;
        }
        sent.others[i] = RunLoad(load, others_[i].sender());
      });
    }
    if (after > 0) {
      threads.emplace_back([&] {
        const auto end = std::chrono::steady_clock::now() + FromSeconds(seconds);
        while (std::chrono::steady_clock::now() < end && !context_.interrupted->load()) {
          std::this_thread::sleep_for(kPoll);
        }
        sent.others.back() = RunLoad({.rate = realtime_rate,
                                      .duration = FromSeconds(after),
                                      .interrupted = context_.interrupted},
                                     others_.front().sender());
      });
    }
    sent.realtime = Realtime(realtime_rate, seconds + after);
    for (std::thread& thread : threads) thread.join();
    return sent;
  }

 private:
  const RowContext& context_;
  ComputedLoad realtime_;
  std::deque<ComputedLoad> others_;
};

// Of requests due from `begin` to `end`.
std::vector<double> Latencies(const LoadResult& result, double begin, double end) {
  std::vector<double> latencies;
  for (size_t i = 0; i < result.due.size(); ++i) {
    if (result.due[i] >= begin && result.due[i] < end) latencies.push_back(result.latencies[i]);
  }
  return latencies;
}

// Seconds after `begin` from which on the median is at most `normal`.
double NormalAfter(const LoadResult& result, double begin, double seconds, double normal) {
  double after = 0;
  for (double at = 0; at + kWindowSeconds <= seconds; at += kWindowSeconds) {
    const std::vector<double> window = Latencies(result, begin + at, begin + at + kWindowSeconds);
    if (window.empty() || Percentile(window, 50) > normal) after = at + kWindowSeconds;
  }
  return after;
}

}  // namespace

absl::StatusOr<std::vector<Figure>> MeasureOverload(const RowContext& context) {
  context.progress("starts a cluster");
  const int threads = std::max(1, ReadCpuLimit().cores / 2);
  ASSIGN_OR_RETURN(const auto cluster,
                   BenchCluster::Start(
                       {.model = context.model,
                        .tenants = {{.name = "bench"}},
                        .flags = {"--workers", "0", "--gateway-max-running", absl::StrCat(kRunning),
                                  "--engine-threads", absl::StrCat(threads)},
                        .interrupted = context.interrupted}));
  // On machines of their own, too, refusing would take nothing of the engine's cores.
  const CoreSplit split(EnginesApart(cluster->processes()));
  RETURN_IF_ERROR(split.status());
  Mix mix(context, *cluster);
  const double seconds = context.seconds;
  // Once without realtime requests to know their rate, then with them, before and after the
  // overload.
  context.progress("what can be answered");
  Sent most = mix.Run(1, 0, seconds / 2, 0);
  const auto rate_of = [](const Sent& sent, double realtime_seconds) {
    double answered = static_cast<double>(EndedWithin(sent.realtime, 0, realtime_seconds));
    for (const LoadResult& other : sent.others) {
      answered += static_cast<double>(EndedWithin(other, 0, realtime_seconds));
    }
    return answered / realtime_seconds;
  };
  const double realtime_rate = std::max(1.0, kRealtimeShare * rate_of(most, seconds / 2));
  most = mix.Run(realtime_rate, 0, seconds, 0);
  const double capacity_before = rate_of(most, seconds);
  RETURN_IF_ERROR(most.realtime.first_error);
  context.progress("realtime requests alone");
  const LoadResult alone_before = mix.Realtime(realtime_rate, kAloneShare * seconds);
  RETURN_IF_ERROR(alone_before.first_error);
  context.progress("realtime and interactive requests before");
  const Sent before = mix.Run(realtime_rate, 1, 0, seconds);
  RETURN_IF_ERROR(before.realtime.first_error);
  RETURN_IF_ERROR(before.others.back().first_error);
  const double overload_seconds = kOverloadShare * seconds;
  context.progress(absl::StrCat("overload for ", overload_seconds, " s"));
  const Sent sent = mix.Run(realtime_rate, kTimes * capacity_before - realtime_rate,
                            overload_seconds, kAfterSeconds);
  const double goodput = rate_of(sent, overload_seconds);
  context.progress("realtime requests alone, and what can be answered, again");
  const LoadResult alone_after = mix.Realtime(realtime_rate, kAloneShare * seconds);
  RETURN_IF_ERROR(alone_after.first_error);
  most = mix.Run(realtime_rate, 0, seconds, 0);
  const double capacity_after = rate_of(most, seconds);
  const double capacity = (capacity_before + capacity_after) / 2;
  std::vector<double> alone = alone_before.latencies;
  alone.insert(alone.end(), alone_after.latencies.begin(), alone_after.latencies.end());
  const double alone_p99 = Percentile(alone, 99);
  const double overload_p99 = Percentile(Latencies(sent.realtime, 0, overload_seconds), 99);
  std::vector<double> refusals;
  int64_t failed = 0, asked = 0;
  for (const LoadResult& other : sent.others) {
    refusals.insert(refusals.end(), other.refusals.begin(), other.refusals.end());
    failed += other.failed;
    asked += other.sent;
  }
  const auto late = static_cast<double>(failed) - static_cast<double>(refusals.size());
  const double normal =
      std::max(NormalAfter(sent.realtime, overload_seconds, kAfterSeconds,
                           kSlower * Percentile(before.realtime.latencies, 99)),
               NormalAfter(sent.others.back(), 0, kAfterSeconds,
                           kSlower * Percentile(before.others.back().latencies, 99)));
  return std::vector<Figure>{
      {.name = "goodput", .value = 100 * goodput / capacity, .unit = "% of capacity", .least = 95},
      {.name = "realtime P99, overload over alone",
       .value = overload_p99 / alone_p99,
       .unit = "times",
       .most = 1.2},
      {.name = "refusal P99", .value = 1e3 * Percentile(refusals, 99), .unit = "ms", .most = 10},
      {.name = "normal again after", .value = normal, .unit = "s", .most = 5},
      {.name = "capacity, before", .value = capacity_before, .unit = "answers / s"},
      {.name = "capacity, after", .value = capacity_after, .unit = "answers / s"},
      {.name = "sent in overload",
       .value = static_cast<double>(asked) / overload_seconds + realtime_rate,
       .unit = "requests / s"},
      {.name = "realtime P99, alone", .value = 1e3 * alone_p99, .unit = "ms"},
      {.name = "realtime P99, overload", .value = 1e3 * overload_p99, .unit = "ms"},
      {.name = "interactive P99, before",
       .value = 1e3 * Percentile(before.others.back().latencies, 99),
       .unit = "ms"},
      {.name = "realtime requests that failed",
       .value = static_cast<double>(sent.realtime.failed),
       .unit = "requests"},
      {.name = "refused",
       .value = 100 * static_cast<double>(refusals.size()) / static_cast<double>(asked),
       .unit = "% of requests"},
      {.name = "out of time after waiting",
       .value = 100 * late / static_cast<double>(asked),
       .unit = "% of requests"}};
}

}  // namespace conclave::cli
