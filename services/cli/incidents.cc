#include "services/cli/incidents.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cli/controller_client.h"
#include "services/cli/hint.h"
#include "services/cli/percentiles.h"
#include "services/cli/table.h"

namespace conclave::cli {
namespace {

// A gap is long from here on: clearly more than what the scheduling of a busy machine does.
constexpr double kLongFactor = 1.5;
constexpr double kLongSeconds = 0.010;
// A token may still arrive that was sent before the death.
constexpr int64_t kUnderWayMs = 200;
// The supervisor looks for dead children every 20 ms; a failed request is told of sooner.
constexpr std::chrono::milliseconds kSupervisorDelay{300};
constexpr std::chrono::milliseconds kPoll{20};

struct Gap {
  double seconds = 0, usual_seconds = 0;
  int64_t token = 0;  // that came after it, from 1 on
  int64_t from_unix_ms = 0, to_unix_ms = 0;
  bool long_one() const { return seconds > kLongFactor * usual_seconds + kLongSeconds; }
};

Gap LongestGap(const GenerationResult& result) {
  Gap gap;
  std::vector<double> gaps;
  int64_t tokens = 0;
  for (size_t i = 0; i < result.arrivals.size(); ++i) {
    if (i > 0) {
      const auto &before = result.arrivals[i - 1], &after = result.arrivals[i];
      gaps.push_back(std::chrono::duration<double>(after.at - before.at).count());
      if (gaps.back() > gap.seconds) {
        gap.seconds = gaps.back();
        gap.token = tokens + 1;
        gap.from_unix_ms = before.unix_ms;
        gap.to_unix_ms = after.unix_ms;
      }
    }
    tokens += result.arrivals[i].num_tokens;
  }
  gap.usual_seconds = Percentile(gaps, 50);
  return gap;
}

// The state of the local cluster if `gateway` is its gateway.
absl::StatusOr<ClusterState> LocalCluster(const Context& context, const std::string& gateway) {
  auto state = ReadRunningCluster(context.state_dir);
  if (state.ok() && state->grpc_address != gateway) return absl::NotFoundError("another gateway");
  return state;
}

std::vector<Event> AllEvents(const Context& context, const ClusterState& state) {
  std::vector<Event> events = ReadEvents(context.state_dir);
  const auto more = ListEvents(state.controller_address, context.options.common, 0);
  if (more.ok()) events.insert(events.end(), more->begin(), more->end());
  std::stable_sort(events.begin(), events.end(),
                   [](const Event& a, const Event& b) { return a.unix_ms < b.unix_ms; });
  return events;
}

}  // namespace

std::vector<std::string> DeathsBetween(const std::vector<Event>& events, int64_t from_unix_ms,
                                       int64_t to_unix_ms) {
  std::vector<std::string> deaths;
  std::set<std::string> members;
  for (const Event& event : events) {
    if (!event.death || event.unix_ms < from_unix_ms || event.unix_ms > to_unix_ms) continue;
    if (!members.insert(event.member).second) continue;
    const std::string what = event.text.substr(0, event.text.find_first_of(";:"));
    deaths.push_back(absl::StrCat(event.member, " ", what));
  }
  return deaths;
}

std::string DescribePause(const GenerationResult& result, const std::vector<Event>& events) {
  const Gap gap = LongestGap(result);
  if (!gap.long_one()) return "";
  const std::vector<std::string> deaths =
      DeathsBetween(events, gap.from_unix_ms - kUnderWayMs, gap.to_unix_ms);
  if (deaths.empty()) return "";
  return absl::StrCat("token ", gap.token, ": ", absl::StrJoin(deaths, ", "), ", longest gap ",
                      std::lround(1000 * gap.seconds), " ms (usual ",
                      std::lround(1000 * gap.usual_seconds), " ms)");
}

std::string PauseLine(const Context& context, const std::string& gateway,
                      const GenerationResult& result) {
  if (!LongestGap(result).long_one()) return "";
  const auto state = LocalCluster(context, gateway);
  return state.ok() ? DescribePause(result, AllEvents(context, *state)) : "";
}

std::string FailureLine(const Context& context, const std::string& gateway, int64_t began_unix_ms) {
  const auto deadline = std::chrono::steady_clock::now() + kSupervisorDelay;
  auto state = LocalCluster(context, gateway);
  while (state.ok()) {
    const std::vector<std::string> deaths =
        DeathsBetween(AllEvents(context, *state), began_unix_ms, UnixMs());
    const std::string ready =
        absl::StrCat(": ask again when ", Hint("ps", context.state_dir), " shows all ready");
    const std::string again =
        state->supervised
            ? absl::StrCat("; what has ended is started again", ready)
            : absl::StrCat("; nothing is started again, because the supervisor is dead: ",
                           Hint("up -d", context.state_dir), " starts anew");
    if (!deaths.empty()) {
      // The controller loses a member that is silent, too; only the supervisor sees an end.
      const bool ended = std::any_of(deaths.begin(), deaths.end(), [](const std::string& death) {
        return absl::StrContains(death, " ended ");
      });
      return absl::StrJoin(deaths, ", ") + (ended ? again : ready);
    }
    for (const ProcessState& process : state->processes) {
      if (process.kind == "gateway" && process.pid == 0) {
        return absl::StrCat(process.name, " ", process.last_end, again);
      }
    }
    if (!state->supervised || std::chrono::steady_clock::now() >= deadline) return "";
    std::this_thread::sleep_for(kPoll);
    state = LocalCluster(context, gateway);
  }
  return "";
}

}  // namespace conclave::cli
