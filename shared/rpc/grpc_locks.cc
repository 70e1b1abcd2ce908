#include "shared/rpc/grpc_locks.h"

#include "absl/synchronization/mutex.h"

namespace conclave::rpc {

void SpareLockGraph() { absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore); }

}  // namespace conclave::rpc
