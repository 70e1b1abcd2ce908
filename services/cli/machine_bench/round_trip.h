// How long a small message takes to another thread and back, on the ways between engines and expert
// workers: rings in shared memory, or a stream of gRPC's own library.
#pragma once

#include <vector>

#include "absl/status/statusor.h"

namespace conclave::cli {

enum class RoundTripWay { kSharedMemory, kUnixSocket, kTcp };

// Seconds of each round trip in so many seconds, one after the other, after some to warm up.
absl::StatusOr<std::vector<double>> MeasureRoundTrips(RoundTripWay way, double seconds);

}  // namespace conclave::cli
