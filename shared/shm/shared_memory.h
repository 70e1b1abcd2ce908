// Memory that processes of one host share: a memfd, mapped, that nobody can resize (so that reading
// it never ends in SIGBUS). Zero at first; pages are taken when they are touched.
//
// A value that owns its mapping and descriptor. Any thread.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace conclave::shm {

class SharedMemory {
 public:
  // RESOURCE_EXHAUSTED or INTERNAL, with the system's reason. `name` is seen in /proc/PID/maps.
  static absl::StatusOr<SharedMemory> Create(const std::string& name, size_t bytes);
  // What another process made, of which it passed the descriptor; takes the descriptor, also when
  // it fails. INVALID_ARGUMENT when it is no memfd that is sealed against shrinking and growing,
  // has another size, or may not be written; RESOURCE_EXHAUSTED or INTERNAL as above.
  static absl::StatusOr<SharedMemory> Map(int descriptor, size_t bytes);
  SharedMemory() = default;  // of no bytes
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  ~SharedMemory();

  std::span<std::byte> bytes() const { return {data_, size_}; }
  int descriptor() const { return descriptor_; }  // to be passed on; stays this object's

 private:
  SharedMemory(std::byte* data, size_t size, int descriptor)
      : data_(data), size_(size), descriptor_(descriptor) {}
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  int descriptor_ = -1;
};

}  // namespace conclave::shm
