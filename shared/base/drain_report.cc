#include "shared/base/drain_report.h"

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"

namespace conclave {

std::string DrainReportPath(const std::string& state_dir, const std::string& name) {
  return absl::StrCat(state_dir, "/drained-", name, ".json");
}

absl::Status WriteDrainReport(const std::string& path, const DrainReport& report) {
  return WriteJsonFile(
      path, {{"pid", report.pid}, {"running", report.running}, {"cut_off", report.cut_off}});
}

absl::StatusOr<DrainReport> ReadDrainReport(const std::string& path) {
  ASSIGN_OR_RETURN(const nlohmann::json value, ReadJsonFile(path));
  try {
    return DrainReport{
        .pid = value.at("pid"), .running = value.at("running"), .cut_off = value.at("cut_off")};
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not a report of a drain: ", error.what()));
  }
}

}  // namespace conclave
