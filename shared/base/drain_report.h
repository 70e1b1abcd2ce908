// What a gateway found running when it was told to end, and what became of it.
//
// Written by the gateway as its last act and read by the supervisor once the process has ended:
// nothing is asked while it changes, so the numbers are exact.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave {

struct DrainReport {
  int64_t pid = 0;      // of the process that drained: tells this report from an earlier life's
  int64_t running = 0;  // requests that had begun and not ended when no more were taken
  int64_t cut_off = 0;  // of these, how many were failed because the drain time was over
};

// <state_dir>/drained-<name>.json
std::string DrainReportPath(const std::string& state_dir, const std::string& name);

absl::Status WriteDrainReport(const std::string& path, const DrainReport& report);

// NOT_FOUND when there is no file, INVALID_ARGUMENT when it is not a report.
absl::StatusOr<DrainReport> ReadDrainReport(const std::string& path);

}  // namespace conclave
