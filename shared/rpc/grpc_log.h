// gRPC's own messages go into our log at debug level: what matters in them reaches callers as a
// status.
#pragma once

namespace conclave::rpc {

// Thread-safe and idempotent. Called by every server and channel.
void RouteGrpcLog();

}  // namespace conclave::rpc
