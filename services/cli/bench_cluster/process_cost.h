// What another process of this host has used: processor time and memory, as the system counts them.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace conclave::cli {

// Of all its threads, user and system, those that have ended included. NOT_FOUND when there is no
// such process.
absl::StatusOr<double> CpuSeconds(int64_t pid);

// Resident bytes.
absl::StatusOr<int64_t> ResidentBytes(int64_t pid);

// Resident bytes of which pages that n processes share count as an n-th each, so that a sum over
// them counts each page once.
struct SharedMemoryUse {
  int64_t proportional = 0;
  int64_t anonymous = 0;  // of these, and whole: memory that is no file's
};
// UNAVAILABLE where the system does not tell.
absl::StatusOr<SharedMemoryUse> MemoryUse(int64_t pid);

}  // namespace conclave::cli
