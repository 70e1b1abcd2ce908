#include "shared/rpc/reach.h"

#include "absl/strings/str_cat.h"

namespace conclave::rpc {

absl::Status CheckReach(const net::ListenOptions& options, const std::optional<Address>& address,
                        bool guarded) {
  if (!address.has_value() || IsLoopback(address->host) || guarded) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(options.name, " would listen on ", options.listen,
                   ", which other hosts can reach, without a cluster secret: set "
                   "cluster_secret_file to the file that all processes of the cluster share, "
                   "listen on 127.0.0.1, or pass --insecure if the "
                   "network is trusted"));
}

}  // namespace conclave::rpc
