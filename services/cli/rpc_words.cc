#include "services/cli/rpc_words.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/cli/hint.h"

namespace conclave::cli {

absl::Status InWords(const absl::Status& status, const std::string& service,
                     const std::string& address, const std::string& state_dir) {
  const std::string remedy = absl::StrCat("; ", Hint("ps", state_dir),
                                          " shows the addresses of the cluster that runs here");
  const absl::string_view message = status.message();
  if (absl::IsUnavailable(status) && absl::StartsWith(message, "DNS resolution failed")) {
    return absl::UnavailableError(
        absl::StrCat("the host of the ", service, " ", address, " is not known"));
  }
  if (absl::IsUnavailable(status) &&
      absl::StartsWith(message, "failed to connect to all addresses")) {
    if (absl::StrContains(message, "certificate verify failed") ||
        absl::StrContains(message, "Hostname Verification Check failed")) {
      return absl::UnavailableError(absl::StrCat(
          "the certificate of the ", service, " at ", address,
          " is not of the authorities that were given, or is for another name (", message, ")"));
    }
    const size_t reason = message.rfind(": ");
    const absl::string_view why = absl::StrContains(message, "http1.x") ? "it is an HTTP port"
                                  : reason == absl::string_view::npos   ? "no connection"
                                                                      : message.substr(reason + 2);
    return absl::UnavailableError(
        absl::StrCat("no ", service, " answers gRPC at ", address, " (", why, ")", remedy));
  }
  for (const char* broken :
       {"Socket closed", "Connection reset by peer", "recvmsg:Connection reset by peer",
        "Broken pipe", "GOAWAY received", "Endpoint read failed"}) {
    if (!absl::IsUnavailable(status) || message != broken) continue;
    return absl::UnavailableError(absl::StrCat("the connection to the ", service, " at ", address,
                                               " broke before the answer was complete (", message,
                                               ")"));
  }
  if (absl::IsUnimplemented(status) && message.empty()) {
    return absl::UnimplementedError(
        absl::StrCat("what answers at ", address, " is no ", service, remedy));
  }
  return status;
}

}  // namespace conclave::cli
