// A whole file mapped read-only into memory. Pages are read when touched.
//
// Immutable and thread-safe. A file must not shrink while it is mapped (the system would end the
// process with SIGBUS at the lost pages): CheckUnchanged tells, before a long read, whether someone
// has written to it since.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::weights {

class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED or INVALID_ARGUMENT (not a regular file), naming the file.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }
  std::string_view View(uint64_t begin, uint64_t end) const {
    return {reinterpret_cast<const char*>(data_) + begin, static_cast<size_t>(end - begin)};
  }

  // FAILED_PRECONDITION when the file's size or modification time is no longer that of Open.
  absl::Status CheckUnchanged() const;

  // Lets the system take back the pages of [begin, end); they are read again when touched.
  void Forget(uint64_t begin, uint64_t end) const;

 private:
  MappedFile() = default;

  std::filesystem::path path_;
  int descriptor_ = -1;
  const std::byte* data_ = nullptr;
  uint64_t size_ = 0;
  timespec modified_ = {};
};

}  // namespace conclave::weights
