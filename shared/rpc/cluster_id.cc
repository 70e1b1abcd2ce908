#include "shared/rpc/cluster_id.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "shared/base/random_bytes.h"
#include "shared/rpc/status.h"

namespace conclave::rpc {
namespace {

constexpr char kMetadataKey[] = "conclave-cluster-id";
constexpr char kReason[] = "OTHER_CLUSTER";
// As the setting cluster_id is checked: what gRPC carries as metadata is printable.
constexpr size_t kLongest = 63;
constexpr char kAllowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";

// `found` is what another process has, `wanted` what this one has.
absl::Status OtherCluster(const std::string& found, const std::string& wanted,
                          const std::string& message) {
  return WithDetails(absl::FailedPreconditionError(message),
                     {.reason = kReason,
                      .metadata = {{"found", found}, {"wanted", wanted}},
                      .retry_after_ms = -1,
                      .fields = {}});
}

}  // namespace

ClusterId::ClusterId(std::string id) : id_(std::move(id)) {}

std::string ClusterId::value() const {
  MutexLock lock(mutex_);
  return id_;
}

absl::Status ClusterId::Learn(const std::string& id, const std::string& source) {
  if (id.empty()) return absl::OkStatus();
  if (id.size() > kLongest || id.find_first_not_of(kAllowed) != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(source, " has a cluster id that is none: up to ",
                                                   kLongest, " letters, digits, '-', '_', '.'"));
  }
  MutexLock lock(mutex_);
  if (id_.empty()) id_ = id;
  if (id_ == id) return absl::OkStatus();
  return OtherCluster(
      id, id_, absl::StrCat(source, " belongs to cluster ", id, ", this process to cluster ", id_));
}

void ClusterId::Attach(grpc::ClientContext* context) const {
  if (const std::string id = value(); !id.empty()) context->AddMetadata(kMetadataKey, id);
}

grpc::Status ClusterId::Check(const grpc::ServerContextBase& context) const {
  const auto shown = context.client_metadata().find(kMetadataKey);
  if (shown == context.client_metadata().end()) return grpc::Status::OK;
  return ToGrpc(CheckShown({shown->second.data(), shown->second.size()}));
}

absl::Status ClusterId::CheckShown(const std::string& found) const {
  const std::string wanted = value();
  if (wanted.empty() || found.empty() || found == wanted) return absl::OkStatus();
  return OtherCluster(
      found, wanted,
      absl::StrCat("the call is for cluster ", found, ", but this address belongs to cluster ",
                   wanted, ": it took the port of a process of ", found,
                   " that had ended, or the caller is to be started with --cluster-id ", wanted));
}

bool IsOtherCluster(const absl::Status& status) { return DetailsOf(status).reason == kReason; }

std::string DrawClusterId() { return absl::BytesToHexString(RandomBytes(8)); }

}  // namespace conclave::rpc
