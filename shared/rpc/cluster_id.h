// Which cluster a process belongs to, so that one that took the port of another cluster's dead
// process is recognised: every call between processes carries the id, and the called one compares.
//
// Thread-safe; shared by all channels and services of a process.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "grpcpp/client_context.h"
#include "grpcpp/server_context.h"
#include "shared/base/mutex.h"

namespace conclave::rpc {

class ClusterId {
 public:
  // `id`: the setting cluster_id; empty: to be learned.
  explicit ClusterId(std::string id = "");

  std::string value() const EXCLUDES(mutex_);  // empty: not known yet

  // Takes the id if none is known yet; an empty one is passed over. FAILED_PRECONDITION when
  // another is known: see IsOtherCluster; INVALID_ARGUMENT for what is no id. `source` says in the
  // message whose id it is: "the controller at 127.0.0.1:8010".
  absl::Status Learn(const std::string& id, const std::string& source) EXCLUDES(mutex_);

  // Client side: shows the id on a call, before it starts.
  void Attach(grpc::ClientContext* context) const;

  // Server side: OK, also while one of the two does not know its cluster, or FAILED_PRECONDITION
  // that names both ids. Called where the cluster secret is checked.
  grpc::Status Check(const grpc::ServerContextBase& context) const;
  // The same of an id that was shown in another way; empty: none was.
  absl::Status CheckShown(const std::string& found) const;

 private:
  mutable Mutex mutex_;
  std::string id_ GUARDED_BY(mutex_);
};

// Whether a call failed because it reached a process of another cluster (reason OTHER_CLUSTER, with
// the ids as `found` and `wanted`).
bool IsOtherCluster(const absl::Status& status);

// 16 hexadecimal digits, drawn at random.
std::string DrawClusterId();

}  // namespace conclave::rpc
