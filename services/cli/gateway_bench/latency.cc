// What a gateway adds to the time of an answer that it has kept: requests at even times, half as
// many as it could answer, to it and to an echo in turn.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/cli/gateway_bench/core_split.h"
#include "services/cli/gateway_bench/kept_answer.h"
#include "services/cli/gateway_bench/row.h"
#include "services/cli/percentiles.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

// The median turn counts: one in which the machine did something else does not. So a turn is short
// beside the time between two such moments.
constexpr int kTurns = 51;
constexpr double kShareOfLoad = 0.5;
// Of a measurement: for what the gateway can do.
constexpr double kSearch = 0.2;

struct Measured {
  const char* name;
  Shape shape;
  double p50_us, p99_us;  // at most
};
constexpr Measured kMeasured[] = {{"unary calls", Shape::kUnary, 10, 100},
                                  {"HTTP", Shape::kHttp, 50, 300},
                                  {"SSE", Shape::kSse, 50, 300}};
constexpr int32_t kInFlight = 64;

}  // namespace

absl::StatusOr<std::vector<Figure>> MeasureLatency(const RowContext& context) {
  ASSIGN_OR_RETURN(const KeptRig rig, KeptRig::Start(context));
  // The client alone: it polls.
  CoreHalves halves;
  for (const ProcessState& process : rig.cluster->processes()) halves.first.push_back(process.pid);
  halves.first.push_back(rig.echo->pid());
  const CoreSplit split(halves);
  RETURN_IF_ERROR(split.status());
  std::vector<Figure> figures;
  for (const Measured& measured : kMeasured) {
    context.progress(measured.name);
    LoadOptions load = {.in_flight = kInFlight,
                        .duration = FromSeconds(kSearch * context.seconds),
                        .interrupted = context.interrupted};
    {
      KeptClient busy(rig, rig.servers[1], measured.shape);
      const LoadResult most = RunLoad(load, busy.sender());
      RETURN_IF_ERROR(most.first_error);
      load.rate = kShareOfLoad * most.rate();
    }
    load.in_flight = 0;
    load.duration = FromSeconds(context.seconds / kTurns);
    KeptClient echo(rig, rig.servers[0], measured.shape, Serving::kPolled);
    KeptClient gateway(rig, rig.servers[1], measured.shape, Serving::kPolled);
    std::vector<double> p50[2], p99[2];  // us, of each turn
    for (int turn = 0; turn < kTurns; ++turn) {
      for (int i = 0; i < 2; ++i) {
        KeptClient& client = i == 0 ? echo : gateway;
        load.poll = [&client] { client.Poll(); };
        const LoadResult result = RunLoad(load, client.sender());
        RETURN_IF_ERROR(result.first_error);
        p50[i].push_back(1e6 * Percentile(result.latencies, 50));
        p99[i].push_back(1e6 * Percentile(result.latencies, 99));
      }
    }
    const std::string name = measured.name;
    figures.push_back({.name = name + ", added P50",
                       .value = Median(p50[1]) - Median(p50[0]),
                       .unit = "us",
                       .most = measured.p50_us});
    figures.push_back({.name = name + ", added P99",
                       .value = Median(p99[1]) - Median(p99[0]),
                       .unit = "us",
                       .most = measured.p99_us});
    for (int i = 0; i < 2; ++i) {
      figures.push_back({.name = absl::StrCat(name, ", ", rig.servers[i].name, " P50"),
                         .value = Median(p50[i]),
                         .unit = "us"});
      figures.push_back({.name = absl::StrCat(name, ", ", rig.servers[i].name, " P99"),
                         .value = Median(p99[i]),
                         .unit = "us"});
    }
    figures.push_back(
        {.name = name + ", requests sent to each", .value = load.rate, .unit = "requests / s"});
  }
  return figures;
}

}  // namespace conclave::cli
