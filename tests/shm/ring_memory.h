// Memory for a ring in a test: zero, ending where a page begins that nobody may touch.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <span>

#include "shared/shm/ring.h"

namespace conclave::testing {

class RingMemory {
 public:
  explicit RingMemory(size_t capacity) : size_(shm::RingBytes(capacity)) {
    pages_ = mmap(nullptr, mapped(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages_ == MAP_FAILED) std::abort();
    data_ = static_cast<std::byte*>(pages_) + usable() - size_;
    if (mprotect(data_ + size_, kPage, PROT_NONE) != 0) std::abort();
  }
  RingMemory(const RingMemory&) = delete;
  RingMemory& operator=(const RingMemory&) = delete;
  ~RingMemory() { munmap(pages_, mapped()); }

  std::span<std::byte> bytes() const { return {data_, size_}; }
  // What the other process could have written at an offset (the table in ring.cc).
  template <class T>
  void Poke(size_t offset, T value) {
    std::memcpy(data_ + offset, &value, sizeof(value));
  }

  static constexpr size_t kHead = 0, kFront = 8, kTail = 128, kRecords = 384;

 private:
  static constexpr size_t kPage = 4096;
  size_t usable() const { return (size_ + kPage - 1) / kPage * kPage; }
  size_t mapped() const { return usable() + kPage; }

  size_t size_;
  void* pages_ = nullptr;
  std::byte* data_ = nullptr;
};

}  // namespace conclave::testing
