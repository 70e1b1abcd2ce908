// One aligned allocation from which packed matrices are cut in order.
#pragma once

#include <cstddef>
#include <memory>

namespace conclave::weights {

// Movable; what it handed out stays valid across moves and dies with it.
class PackedBuffer {
 public:
  PackedBuffer() = default;
  explicit PackedBuffer(size_t capacity_bytes);  // zeroed, 64-byte aligned

  // The next `bytes` (rounded up to 64) of the buffer. CHECK-fails beyond the capacity.
  std::byte* Take(size_t bytes);
  size_t capacity_bytes() const { return capacity_bytes_; }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t capacity_bytes_ = 0;
  size_t used_bytes_ = 0;
};

}  // namespace conclave::weights
