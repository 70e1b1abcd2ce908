#include "kernels/context.h"

#include <algorithm>
#include <new>

#include "kernels/cpu/self_check.h"

namespace conclave::kernels {
namespace {

constexpr std::align_val_t kAlignment{64};

bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

}  // namespace

std::string_view CpuLevelName(CpuLevel level) {
  switch (level) {
    case CpuLevel::kReference:
      return "reference";
    case CpuLevel::kAvx2:
      return "avx2";
    case CpuLevel::kAvx2Vnni:
      return "avx2_vnni";
    case CpuLevel::kAvx512:
      return "avx512";
    case CpuLevel::kAvx512Vnni:
      return "avx512_vnni";
    case CpuLevel::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "unknown";
}

std::optional<CpuLevel> ParseCpuLevel(std::string_view name) {
  for (const CpuLevel level : kCpuLevels) {
    if (CpuLevelName(level) == name) return level;
  }
  return std::nullopt;
}

bool CpuSupports(CpuLevel level) {
  static const bool avx2 = HasAvx2();
  static const bool avx2_vnni = avx2 && __builtin_cpu_supports("avxvnni");
  static const bool avx512 = avx2 && HasAvx512();
  static const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  static const bool bf16 =
      vnni && __builtin_cpu_supports("avx512bf16") && cpu::DotProductIsAsSpecified();
  switch (level) {
    case CpuLevel::kReference:
      return true;
    case CpuLevel::kAvx2:
      return avx2;
    case CpuLevel::kAvx2Vnni:
      return avx2_vnni;
    case CpuLevel::kAvx512:
      return avx512;
    case CpuLevel::kAvx512Vnni:
      return vnni;
    case CpuLevel::kAvx512Bf16:
      return bf16;
  }
  return false;
}

CpuLevel BestCpuLevel() {
  CpuLevel best = CpuLevel::kReference;
  for (const CpuLevel level : kCpuLevels) {
    if (CpuSupports(level)) best = level;
  }
  return best;
}

Context::Context(CpuLevel level, int num_threads)
    : level_(level), pool_(std::make_unique<ThreadPool>(num_threads)) {}

void Context::AlignedDelete::operator()(std::byte* p) const { ::operator delete(p, kAlignment); }

std::byte* Context::Scratch(ScratchSlot slot, size_t bytes) {
  Buffer& buffer = buffers_[static_cast<int>(slot)];
  if (buffer.bytes < bytes) {
    // Grows by half at least, so that slowly growing shapes settle soon.
    const size_t size = std::max(bytes, buffer.bytes + buffer.bytes / 2);
    buffer.data.reset();
    buffer.data.reset(static_cast<std::byte*>(::operator new(size, kAlignment)));
    buffer.bytes = size;
  }
  return buffer.data.get();
}

}  // namespace conclave::kernels
