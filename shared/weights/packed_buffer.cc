#include "shared/weights/packed_buffer.h"

#include <sys/mman.h>

#include "shared/base/check.h"

namespace conclave::weights {

PackedBuffer::PackedBuffer(size_t capacity_bytes) : capacity_bytes_(RoundUp(capacity_bytes)) {
  if (capacity_bytes_ == 0) return;
  void* mapped =
      mmap(nullptr, capacity_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CONCLAVE_CHECK(mapped != MAP_FAILED);
  madvise(mapped, capacity_bytes_, MADV_HUGEPAGE);  // fewer faults; where there are none, as before
  data_ = {static_cast<std::byte*>(mapped), Unmap{capacity_bytes_}};
}

std::byte* PackedBuffer::Take(size_t bytes) {
  CONCLAVE_CHECK(RoundUp(bytes) <= capacity_bytes_ - used_bytes_);
  std::byte* taken = data_.get() + used_bytes_;
  used_bytes_ += RoundUp(bytes);
  return taken;
}

void PackedBuffer::Unmap::operator()(std::byte* p) const { munmap(p, mapped_bytes); }

}  // namespace conclave::weights
