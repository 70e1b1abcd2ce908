#include "shared/options/health_check.h"

#include <chrono>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "shared/base/address.h"
#include "shared/base/http_get.h"
#include "shared/base/status_macros.h"

namespace conclave {
namespace {

// A service that cannot answer one GET in this time is not well.
constexpr auto kTimeout = std::chrono::seconds(2);

struct HttpPort {
  std::string setting;
  std::string listen;
};

HttpPort PortOf(std::string_view section, const AllOptions& options) {
  if (section == "gateway") return {"gateway.ops_listen", options.gateway.ops_listen};
  if (section == "engine") return {"engine.ops_listen", options.engine.ops_listen};
  if (section == "expert") return {"expert.ops_listen", options.expert.ops_listen};
  return {"controller.ops_listen", options.controller.ops_listen};
}

}  // namespace

absl::StatusOr<std::string> HealthAddress(std::string_view section, const AllOptions& options) {
  const HttpPort port = PortOf(section, options);
  ASSIGN_OR_RETURN(Address address, ParseAddress(port.listen));
  if (address.port == 0) {
    return absl::InvalidArgumentError(absl::StrCat(port.setting, " is ", port.listen,
                                                   ", which leaves the port open; set ",
                                                   "the port that the service listens on"));
  }
  if (address.host == "0.0.0.0") address.host = "127.0.0.1";
  if (address.host == "::") address.host = "::1";
  return address.ToString();
}

absl::Status CheckHealth(std::string_view section, const AllOptions& options) {
  ASSIGN_OR_RETURN(const std::string address, HealthAddress(section, options));
  ASSIGN_OR_RETURN(const HttpAnswer answer, HttpGet(address, "/readyz", kTimeout));
  if (answer.status == 200) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("not ready: http://", address, "/readyz answers ",
                                             answer.status, " ",
                                             std::string(absl::StripAsciiWhitespace(answer.body))));
}

}  // namespace conclave
