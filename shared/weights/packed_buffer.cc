#include "shared/weights/packed_buffer.h"

#include <cstdlib>
#include <cstring>

#include "shared/base/check.h"

namespace conclave::weights {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and a 512-bit register

size_t RoundUp(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

PackedBuffer::PackedBuffer(size_t capacity_bytes) : capacity_bytes_(RoundUp(capacity_bytes)) {
  if (capacity_bytes_ == 0) return;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, capacity_bytes_)));
  CONCLAVE_CHECK(data_ != nullptr);
  std::memset(data_.get(), 0, capacity_bytes_);
}

std::byte* PackedBuffer::Take(size_t bytes) {
  CONCLAVE_CHECK(RoundUp(bytes) <= capacity_bytes_ - used_bytes_);
  std::byte* taken = data_.get() + used_bytes_;
  used_bytes_ += RoundUp(bytes);
  return taken;
}

void PackedBuffer::Free::operator()(std::byte* p) const { std::free(p); }

}  // namespace conclave::weights
