// One allocation from which packed matrices are cut in order.
#pragma once

#include <cstddef>
#include <memory>

namespace conclave::weights {

// Movable; what it handed out stays valid across moves and dies with it.
class PackedBuffer {
 public:
  PackedBuffer() = default;
  // Zeroed and 64-byte aligned; the system commits memory as it is written.
  explicit PackedBuffer(size_t capacity_bytes);

  // The next `bytes` (rounded up to 64) of the buffer. CHECK-fails beyond the capacity.
  std::byte* Take(size_t bytes);
  size_t capacity_bytes() const { return capacity_bytes_; }

  static size_t RoundUp(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

 private:
  static constexpr size_t kAlignment = 64;  // a cache line, and a 512-bit register
  struct Unmap {
    size_t mapped_bytes;
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte, Unmap> data_;
  size_t capacity_bytes_ = 0;
  size_t used_bytes_ = 0;
};

}  // namespace conclave::weights
