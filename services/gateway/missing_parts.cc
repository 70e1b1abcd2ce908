#include "services/gateway/missing_parts.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "shared/placement/topology.h"

namespace conclave::gateway {

std::vector<std::string> WhatIsMissing(EngineSet& engines, TimePoint now) {
  std::vector<std::string> missing;
  for (const auto& [name, engine] : engines.all()) {
    if (!engine.refusal.empty()) missing.push_back(engine.refusal);
    if (!engine.identity) continue;
    if (engine.silent) {
      const auto age = std::chrono::duration_cast<std::chrono::seconds>(now - engine.last_event);
      missing.push_back(absl::StrCat(name, " has not stepped for ", age.count(), " s"));
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
