#include "services/gateway/missing_parts.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "shared/placement/topology.h"

namespace conclave::gateway {

std::vector<std::string> WhatIsMissing(EngineSet& engines, TimePoint now, Duration step_age_limit) {
  std::vector<std::string> missing;
  for (const auto& [name, engine] : engines.all()) {
    if (!engine.refusal.empty()) missing.push_back(engine.refusal);
    if (!engine.identity) continue;
    // A report that is itself old says nothing: the controller may be away. Then the live stream
    // counts.
    const Duration report_age = now - engine.load_time;
    const Duration step_age = std::chrono::milliseconds(engine.load.last_step_age_ms);
    if (report_age <= step_age_limit && step_age > step_age_limit) {
      missing.push_back(absl::StrCat(name, " has not stepped for ",
                                     std::chrono::duration<double>(step_age).count(), " s"));
    } else if (!engine.missing.empty()) {
      missing.push_back(absl::StrCat(name, " reaches no live worker that has ",
                                     placement::DescribeExperts(engine.missing)));
    } else {
      return {};
    }
  }
  if (missing.empty()) missing.push_back("no engine is connected");
  return missing;
}

}  // namespace conclave::gateway
