#include "shared/weights/packed_buffer.h"

#include <sys/mman.h>

#include <cstdint>

#include "shared/base/check.h"

namespace conclave::weights {
namespace {

constexpr size_t kHugePageBytes = 2 << 20;

}  // namespace

PackedBuffer::PackedBuffer(size_t capacity_bytes) : capacity_bytes_(RoundUp(capacity_bytes)) {
  if (capacity_bytes_ == 0) return;
  // The system aligns mappings to its small pages: a large one begins at the first huge page in it.
  const bool huge = capacity_bytes_ >= kHugePageBytes;
  const size_t mapped_bytes = capacity_bytes_ + (huge ? kHugePageBytes : 0);
  void* mapped =
      mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CONCLAVE_CHECK(mapped != MAP_FAILED);
  mapped_ = {static_cast<std::byte*>(mapped), Unmap{mapped_bytes}};
  data_ = mapped_.get();
  if (!huge) return;
  data_ += (kHugePageBytes - reinterpret_cast<uintptr_t>(data_) % kHugePageBytes) % kHugePageBytes;
  madvise(data_, capacity_bytes_, MADV_HUGEPAGE);  // advice only: without it pages are small
}

std::byte* PackedBuffer::Take(size_t bytes) {
  CONCLAVE_CHECK(RoundUp(bytes) <= capacity_bytes_ - used_bytes_);
  std::byte* taken = data_ + used_bytes_;
  used_bytes_ += RoundUp(bytes);
  return taken;
}

void PackedBuffer::Unmap::operator()(std::byte* p) const { munmap(p, mapped_bytes); }

}  // namespace conclave::weights
