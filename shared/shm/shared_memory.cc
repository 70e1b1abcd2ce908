#include "shared/shm/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace conclave::shm {
namespace {

absl::Status Failed(const std::string& what, int error) {
  const bool exhausted = error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOSPC ||
                         error == EFBIG || error == EAGAIN;
  return absl::Status(
      exhausted ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kInternal,
      absl::StrCat(what, ": ", std::strerror(error)));
}

absl::StatusOr<std::byte*> MapShared(int descriptor, size_t bytes, const std::string& what) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (data != MAP_FAILED) return static_cast<std::byte*>(data);
  // Sealed against writing (EPERM), or opened for reading alone (EACCES).
  if (errno == EPERM || errno == EACCES) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " may not be written: ", std::strerror(errno)));
  }
  return Failed(absl::StrCat("cannot map ", what), errno);
}

// What keeps the descriptor from being mapped safely.
absl::Status CheckPassed(int descriptor, size_t bytes) {
  constexpr int kWanted = F_SEAL_SHRINK | F_SEAL_GROW;
  const int seals = fcntl(descriptor, F_GET_SEALS);
  if (seals < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shared memory: the descriptor is of no memfd (its seals: ", std::strerror(errno), ")"));
  }
  if ((seals & kWanted) != kWanted) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shared memory: the descriptor is not sealed against shrinking and growing (seals ", seals,
        ", wanted ", kWanted, ")"));
  }
  struct stat status {};
  if (fstat(descriptor, &status) != 0) return Failed("cannot read shared memory's size", errno);
  if (bytes == 0 || static_cast<uint64_t>(status.st_size) != bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared memory has ", status.st_size, " bytes where ", bytes, " are wanted"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SharedMemory> SharedMemory::Create(const std::string& name, size_t bytes) {
  const std::string what = absl::StrCat("shared memory \"", name, "\" of ", bytes, " bytes");
  const int descriptor = memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) return Failed(absl::StrCat("cannot make ", what), errno);
  SharedMemory memory(nullptr, 0, descriptor);
  if (ftruncate(descriptor, static_cast<off_t>(bytes)) != 0 ||
      fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return Failed(absl::StrCat("cannot make ", what), errno);
  }
  absl::StatusOr<std::byte*> data = MapShared(descriptor, bytes, what);
  if (!data.ok()) return data.status();
  memory.data_ = *data;
  memory.size_ = bytes;
  return memory;
}

absl::StatusOr<SharedMemory> SharedMemory::Map(int descriptor, size_t bytes) {
  SharedMemory memory(nullptr, 0, descriptor);
  if (absl::Status passed = CheckPassed(descriptor, bytes); !passed.ok()) return passed;
  absl::StatusOr<std::byte*> data =
      MapShared(descriptor, bytes, absl::StrCat("shared memory of ", bytes, " bytes"));
  if (!data.ok()) return data.status();
  memory.data_ = *data;
  memory.size_ = bytes;
  return memory;
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) munmap(data_, size_);
  if (descriptor_ >= 0) close(descriptor_);
}

}  // namespace conclave::shm
