#include "shared/weights/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace conclave::weights {

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::filesystem::path& path) {
  std::unique_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  // Without O_NONBLOCK, opening a pipe waits for a writer.
  file->descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file->descriptor_ < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path.string()));
  }
  struct stat status;
  if (fstat(file->descriptor_, &status) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path.string()));
  }
  if (!S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), " is not a regular file"));
  }
  file->size_ = static_cast<uint64_t>(status.st_size);
  file->modified_ = status.st_mtim;
  if (file->size_ == 0) return file;  // an empty range cannot be mapped
  void* data =
      mmap(nullptr, static_cast<size_t>(file->size_), PROT_READ, MAP_SHARED, file->descriptor_, 0);
  if (data == MAP_FAILED) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot map ", path.string()));
  }
  file->data_ = static_cast<const std::byte*>(data);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_));
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status MappedFile::CheckUnchanged() const {
  struct stat status;
  if (fstat(descriptor_, &status) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path_.string()));
  }
  if (static_cast<uint64_t>(status.st_size) != size_ || status.st_mtim.tv_sec != modified_.tv_sec ||
      status.st_mtim.tv_nsec != modified_.tv_nsec) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_.string(), " was written to after it was opened (", size_,
                     " bytes then, ", static_cast<uint64_t>(status.st_size),
                     " now); restart this process when the file is complete"));
  }
  return absl::OkStatus();
}

void MappedFile::Forget(uint64_t begin, uint64_t end) const {
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  // Whole pages only: a shared first or last page may still be wanted by a neighbour.
  const uint64_t first = (begin + page - 1) / page * page;
  const uint64_t last = end / page * page;
  if (data_ == nullptr || first >= last || last > size_) return;
  madvise(const_cast<std::byte*>(data_) + first, static_cast<size_t>(last - first), MADV_DONTNEED);
}

}  // namespace conclave::weights
