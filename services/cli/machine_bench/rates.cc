#include "services/cli/machine_bench/rates.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/peaks.h"
#include "shared/base/byte_size.h"
#include "shared/base/limits.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

using std::chrono::steady_clock;

// Of all threads together: beyond most caches, and little of any memory.
constexpr size_t kReadBytes = size_t{1} << 30;
constexpr size_t kPageBytes = 4096;
// Between looks at the clock: less than a millisecond.
constexpr size_t kReadPart = size_t{8} << 20;
constexpr int64_t kRounds = 20'000;

struct FreeBytes {
  void operator()(std::byte* p) const { std::free(p); }
};

// Calls `part(thread)` of all threads again and again for so long, and adds up what they say they
// did in a second.
double Rate(int threads, double seconds, const std::function<double(int)>& part) {
  std::vector<double> rates(static_cast<size_t>(threads));
  std::barrier together(threads);
  std::vector<std::thread> running;
  for (int thread = 0; thread < threads; ++thread) {
    running.emplace_back([&, thread] {
      part(thread);  // pages, caches, clock rates
      together.arrive_and_wait();
      const auto start = steady_clock::now();
      double done = 0, elapsed = 0;
      while (elapsed < seconds) {
        done += part(thread);
        elapsed = std::chrono::duration<double>(steady_clock::now() - start).count();
      }
      rates[static_cast<size_t>(thread)] = done / elapsed;
    });
  }
  for (std::thread& thread : running) thread.join();
  double sum = 0;
  for (const double rate : rates) sum += rate;
  return sum;
}

}  // namespace

absl::StatusOr<double> ReadRate(kernels::CpuLevel level, int threads, double seconds) {
  const size_t slice =
      std::max(kReadPart, kReadBytes / static_cast<size_t>(threads) / kReadPart * kReadPart);
  const size_t bytes = slice * static_cast<size_t>(threads);
  const std::unique_ptr<std::byte, FreeBytes> data(
      static_cast<std::byte*>(std::aligned_alloc(kPageBytes, bytes)));
  if (data == nullptr || ReadMemoryLimit().available_bytes < static_cast<int64_t>(bytes)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("to read memory ", FormatBytes(static_cast<int64_t>(bytes)),
                     " are needed, which cannot be had; free some, or take fewer --threads"));
  }
  struct Slice {
    size_t next = 0;
    uint64_t sum = 0;
    bool touched = false;
  };
  std::vector<Slice> slices(static_cast<size_t>(threads));
  return Rate(threads, seconds, [&](int thread) {
    Slice& own = slices[static_cast<size_t>(thread)];
    std::byte* const begin = data.get() + slice * static_cast<size_t>(thread);
    // A page belongs to the memory of the thread that touches it first.
    if (!std::exchange(own.touched, true)) std::fill_n(begin, slice, std::byte{1});
    own.sum += kernels::ReadMemory(level, begin + own.next, kReadPart);
    own.next = (own.next + kReadPart) % slice;
    return static_cast<double>(kReadPart);
  });
}

double MultiplyAddRate(kernels::CpuLevel level, kernels::WeightType type, int threads,
                       double seconds) {
  if (kernels::MultiplyAdds(level, type, 1) == 0) return 0;
  return Rate(threads, seconds, [&](int) {
    return static_cast<double>(kernels::MultiplyAdds(level, type, kRounds));
  });
}

absl::StatusOr<MachineRates> MeasureRates(kernels::CpuLevel level, int threads, double seconds) {
  using kernels::WeightType;
  MachineRates rates;
  ASSIGN_OR_RETURN(rates.read, ReadRate(level, threads, seconds));
  for (const WeightType type : {WeightType::kF32, WeightType::kBf16, WeightType::kInt8}) {
    rates.operations[type] = MultiplyAddRate(level, type, threads, seconds);
  }
  // By the same instruction, but for one level.
  rates.operations[WeightType::kInt4] =
      level == kernels::CpuLevel::kAvx2
          ? MultiplyAddRate(level, WeightType::kInt4, threads, seconds)
          : rates.operations[WeightType::kInt8];
  return rates;
}

}  // namespace conclave::cli
