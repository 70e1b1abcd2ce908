// gRPC's locks, as Debian builds them.
//
// Called by shared/rpc itself, before gRPC is used.
#pragma once

namespace conclave::rpc {

// Debian builds Abseil with its search for deadlocks, which keeps a graph of all locks and costs a
// gRPC call a tenth of its time; gRPC alone uses those locks here. Turns that search off for the
// process.
void SpareLockGraph();

}  // namespace conclave::rpc
