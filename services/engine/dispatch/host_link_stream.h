// A stream to a worker of this host through shared memory.
#pragma once

#include <memory>
#include <string>

#include "services/engine/dispatch/link_inbox.h"
#include "services/engine/dispatch/link_stream.h"
#include "shared/rpc/cluster_id.h"
#include "shared/rpc/cluster_secret.h"

namespace conclave::engine {

struct HostLinkTarget {
  std::string worker;  // its name
  std::string path;    // of its socket
  rpc::ClusterSecret secret = {};
  std::shared_ptr<const rpc::ClusterId> cluster = {};
};

// Owns a thread ("host-link") that connects, then waits for the worker's end; whoever waits in the
// inbox reads the frames. A connection that nobody takes ends with UNAVAILABLE, NOT_FOUND or
// PERMISSION_DENIED (shm::HostConnection::Connect).
std::shared_ptr<LinkStream> MakeHostLinkStream(uint64_t id, std::shared_ptr<LinkStreamOwner> owner,
                                               HostLinkTarget target,
                                               std::shared_ptr<LinkInbox> inbox,
                                               std::shared_ptr<const void> presence);

}  // namespace conclave::engine
