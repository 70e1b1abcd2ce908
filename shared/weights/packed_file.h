// A model in one file, opened: mapped read-only, its table checked; tensors are checked when they
// are asked for.
//
// Immutable and thread-safe. Processes of one host that map the same file share its memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/weights/mapped_file.h"
#include "shared/weights/packed_index.h"

namespace conclave::weights {

class PackedFile {
 public:
  // Reads header, table and texts, and checks them; not the tensors. Errors of MappedFile::Open and
  // ParsePackedIndex; DATA_LOSS for a damaged text.
  static absl::StatusOr<std::unique_ptr<PackedFile>> Open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_->path(); }
  const PackedIndex& index() const { return index_; }

  // A text's bytes; NOT_FOUND naming file and text.
  absl::StatusOr<std::string_view> Text(std::string_view name) const;

  const PackedEntry* Find(std::string_view name) const;  // null if there is none
  std::span<const std::byte> Bytes(const PackedEntry& entry) const;
  // DATA_LOSS naming file, tensor and both checksums when its bytes are not those that were packed.
  absl::Status Verify(const PackedEntry& entry) const;
  // All tensors, and that nothing but zeros lies between; of several damaged places the first is
  // told. `threads` threads read, the caller's among them; on that one `progress` (may be null)
  // gets the bytes done and in all, at the end both the same when all is well.
  absl::Status VerifyAll(int threads,
                         const std::function<void(uint64_t, uint64_t)>& progress) const;

  absl::Status CheckUnchanged() const { return file_->CheckUnchanged(); }

 private:
  PackedFile() = default;

  std::span<const std::byte> Bytes(uint64_t offset, uint64_t bytes) const {
    return {file_->data() + offset, static_cast<size_t>(bytes)};
  }
  absl::Status CheckText(const PackedText& text) const;
  // DATA_LOSS naming the first byte of [begin, end) that is not zero.
  absl::Status CheckZeros(uint64_t begin, uint64_t end) const;
  // What lies between the table and the first tensor.
  absl::Status CheckTextPadding() const;
  // The tensor and what lies between it and the one before; tells `done` as it goes on.
  absl::Status CheckEntry(size_t i, const std::function<void(uint64_t)>& done) const;

  std::unique_ptr<MappedFile> file_;
  PackedIndex index_;
  std::unordered_map<std::string_view, const PackedEntry*> by_name_;
};

// True for a regular file that begins as a packed one does; false for anything else.
bool IsPackedFile(const std::filesystem::path& path);

}  // namespace conclave::weights
