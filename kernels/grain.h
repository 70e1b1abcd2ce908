// How finely kernels are cut for threads. Internal to kernels/.
#pragma once

#include <algorithm>
#include <cstdint>

namespace conclave::kernels {

// A part that another thread may take should last some microseconds: waking it costs as much.
inline constexpr double kPartNs = 6000;

// The least number of items in a part, for items that read `bytes` of weights or cache and do
// `operations`. One core of today reads some 20 GB/s from memory and does some 200 GOP/s; the
// estimate need not be good.
inline int64_t Grain(int64_t bytes, int64_t operations) {
  const double item_ns = static_cast<double>(bytes) / 20 + static_cast<double>(operations) / 200;
  return std::max<int64_t>(1, static_cast<int64_t>(kPartNs / (item_ns + 1)));
}

// For kernels that go over rows element by element.
inline int64_t RowGrain(int64_t elements_per_row) { return Grain(4 * elements_per_row, 0); }

}  // namespace conclave::kernels
