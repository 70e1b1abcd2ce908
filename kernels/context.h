// What a kernel runs with: the instruction level, the threads, and scratch memory that grows to the
// largest shape seen and is then reused. One per compute thread; not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "kernels/thread_pool.h"

namespace conclave::kernels {

// Levels give the same bits; of those that a processor supports, a higher one is faster.
// kReference is the plain scalar code of kernels/ref.
//
// Inside a family, kAvx2 to kAvx2Vnni and kAvx512 to kAvx512Bf16, a level has all instructions of
// those below it, and all of kAvx512 up have those of kAvx2. But AVX-VNNI is apart from AVX-512:
// most processors with AVX-512 lack it, and support kAvx2 and kAvx512Bf16, but not kAvx2Vnni. Those
// that have both have AVX-512 VNNI as well, so the highest supported level is the best.
enum class CpuLevel : uint8_t {
  kReference = 0,
  kAvx2 = 1,
  kAvx2Vnni = 2,
  kAvx512 = 3,
  kAvx512Vnni = 4,
  kAvx512Bf16 = 5
};
inline constexpr CpuLevel kCpuLevels[] = {  // ascending
    CpuLevel::kReference, CpuLevel::kAvx2,       CpuLevel::kAvx2Vnni,
    CpuLevel::kAvx512,    CpuLevel::kAvx512Vnni, CpuLevel::kAvx512Bf16};

// "reference", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16".
std::string_view CpuLevelName(CpuLevel level);
std::optional<CpuLevel> ParseCpuLevel(std::string_view name);
bool CpuSupports(CpuLevel level);  // by CPUID and the operating system's state
CpuLevel BestCpuLevel();           // the highest supported one

// Scratch slots that a kernel may hold at once; each use names its own.
enum class ScratchSlot : uint8_t { kInput, kHidden, kAccumulator, kMisc, kCount };

class Context {
 public:
  // Preconditions: CpuSupports(level), num_threads >= 1.
  Context(CpuLevel level, int num_threads);

  CpuLevel level() const { return level_; }
  ThreadPool& pool() { return *pool_; }

  // 64-byte aligned memory of at least `bytes`, valid until the slot is asked for again. Contents
  // are undefined.
  std::byte* Scratch(ScratchSlot slot, size_t bytes);

 private:
  struct AlignedDelete {
    void operator()(std::byte* p) const;
  };
  struct Buffer {
    std::unique_ptr<std::byte, AlignedDelete> data;
    size_t bytes = 0;
  };
  CpuLevel level_;
  std::unique_ptr<ThreadPool> pool_;
  Buffer buffers_[static_cast<int>(ScratchSlot::kCount)];
};

}  // namespace conclave::kernels
