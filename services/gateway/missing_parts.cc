#include "services/gateway/missing_parts.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "shared/placement/topology.h"

namespace conclave::gateway {

std::vector<std::string> WhatIsMissing(
    EngineSet& engines, const std::vector<placement::MissingExperts>& missing_experts,
    TimePoint now, Duration step_age_limit) {
  std::vector<std::string> missing;
  bool stepping = false;
  for (const auto& [name, engine] : engines.all()) {
    if (!engine.refusal.empty()) missing.push_back(engine.refusal);
    if (!engine.identity) continue;
    // A report that is itself old says nothing: the controller may be away. Then the live stream
    // counts.
    const Duration report_age = now - engine.load_time;
    const Duration step_age = std::chrono::milliseconds(engine.load.last_step_age_ms);
    if (report_age > step_age_limit || step_age <= step_age_limit) {
      stepping = true;
    } else {
      missing.push_back(absl::StrCat(name, " has not stepped for ",
                                     std::chrono::duration<double>(step_age).count(), " s"));
    }
  }
  if (stepping) {
    missing.clear();
  } else if (missing.empty()) {
    missing.push_back("no engine is connected");
  }
  for (const placement::MissingExperts& experts : missing_experts) {
    const bool ours =
        std::any_of(engines.all().begin(), engines.all().end(), [&](const auto& entry) {
          return entry.second.identity && entry.second.identity->fingerprint == experts.fingerprint;
        });
    if (ours && !experts.experts.empty()) {
      missing.push_back(
          absl::StrCat("no live worker has ", placement::DescribeExperts(experts.experts)));
    }
  }
  return missing;
}

}  // namespace conclave::gateway
