// How many requests a gateway answers from its cache for each second of its processor time: in
// calls of their own, many on one Session stream, and over HTTP; in turn with an echo on the same
// server, and for gRPC with one on gRPC's own.
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/cli/bench_cluster/process_cost.h"
#include "services/cli/gateway_bench/kept_answer.h"
#include "services/cli/gateway_bench/row.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

// In turn, so that what else the machine does is borne by both.
constexpr int kTurns = 4;
// Of a measurement: connections and caches become warm.
constexpr double kWarmUp = 0.1;

struct Measured {
  const char* name;
  Shape shape;
  int32_t in_flight;
  std::optional<double> least;  // answers for each second of processor time
};
constexpr Measured kMeasured[] = {{"unary calls", Shape::kUnary, 64, 45'000},
                                  {"Session", Shape::kSession, 256, std::nullopt},
                                  {"Session, gathered", Shape::kGathered, 512, 150'000},
                                  {"HTTP", Shape::kHttp, 64, std::nullopt},
                                  {"SSE", Shape::kSse, 64, std::nullopt}};

struct Cost {
  int64_t answers = 0;
  double cpu_seconds = 0, seconds = 0;
  double per_core() const { return static_cast<double>(answers) / cpu_seconds; }
  double rate() const { return static_cast<double>(answers) / seconds; }
};

absl::Status Measure(const RowContext& context, const KeptRig::Server& server, KeptClient& client,
                     int32_t in_flight, Cost* cost) {
  LoadOptions load = {.in_flight = in_flight,
                      .duration = FromSeconds(kWarmUp * context.seconds / kTurns),
                      .interrupted = context.interrupted};
  RETURN_IF_ERROR(RunLoad(load, client.sender()).first_error);
  load.duration = FromSeconds(context.seconds / kTurns);
  ASSIGN_OR_RETURN(const double before, CpuSeconds(server.pid));
  const LoadResult result = RunLoad(load, client.sender());
  ASSIGN_OR_RETURN(const double after, CpuSeconds(server.pid));
  RETURN_IF_ERROR(result.first_error);
  cost->answers += static_cast<int64_t>(result.latencies.size());
  cost->cpu_seconds += after - before;
  cost->seconds += result.seconds;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Figure>> MeasureHits(const RowContext& context) {
  ASSIGN_OR_RETURN(const KeptRig rig, KeptRig::Start(context));
  std::vector<Figure> figures;
  for (const Measured& measured : kMeasured) {
    context.progress(measured.name);
    const bool over_http = measured.shape == Shape::kHttp || measured.shape == Shape::kSse;
    std::vector<const KeptRig::Server*> servers = {&rig.servers[0], &rig.servers[1]};
    if (!over_http) servers.push_back(&rig.peer);
    std::vector<std::unique_ptr<KeptClient>> clients;
    for (const KeptRig::Server* const server : servers) {
      clients.push_back(std::make_unique<KeptClient>(rig, *server, measured.shape));
    }
    std::vector<Cost> costs(servers.size());
    for (int turn = 0; turn < kTurns; ++turn) {
      for (size_t i = 0; i < servers.size(); ++i) {
        RETURN_IF_ERROR(Measure(context, *servers[i], *clients[i], measured.in_flight, &costs[i]));
      }
    }
    for (const Cost& cost : costs) {
      if (cost.cpu_seconds <= 0) {
        return absl::FailedPreconditionError(
            "the server's processor time is below what the system counts; measure longer: "
            "--seconds");
      }
    }
    const std::string name = measured.name;
    const char* const per_core = "answers / s of CPU";
    figures.push_back(
        {.name = name, .value = costs[1].per_core(), .unit = per_core, .least = measured.least});
    figures.push_back({.name = name + ", echo", .value = costs[0].per_core(), .unit = per_core});
    if (!over_http) {
      figures.push_back(
          {.name = name + ", gRPC's own echo", .value = costs[2].per_core(), .unit = per_core});
    }
    figures.push_back({.name = name + ", of the echo's",
                       .value = 100 * costs[1].per_core() / costs[0].per_core(),
                       .unit = "%"});
    figures.push_back({.name = name + ", beyond the echo",
                       .value = 1e6 * (1 / costs[1].per_core() - 1 / costs[0].per_core()),
                       .unit = "us of CPU"});
    figures.push_back(
        {.name = name + ", gateway's rate", .value = costs[1].rate(), .unit = "answers / s"});
  }
  figures.push_back({.name = "Session, messages of an answer",
                     .value = static_cast<double>(rig.session_messages),
                     .unit = "messages"});
  return figures;
}

}  // namespace conclave::cli
