// How long a small message takes to another thread and back, over a stream of gRPC's own library as
// engines and expert workers use it.
#pragma once

#include <vector>

#include "absl/status/statusor.h"

namespace conclave::cli {

// Seconds of each round trip in so many seconds, one after the other, after some to warm up.
absl::StatusOr<std::vector<double>> MeasureRoundTrips(bool unix_socket, double seconds);

}  // namespace conclave::cli
