// Writes a packed file under a temporary name, and gives it its own when it is whole.
//
// Write may be called from several threads, for different bytes; the rest from one.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/weights/packed_index.h"

namespace conclave::weights {

class PackedWriter {
 public:
  // `texts` are the bytes of the index's texts, in their order; checksums and errors of tensors are
  // still 0. The temporary file lies beside `path`: "PATH.partial.PID". INVALID_ARGUMENT when the
  // index has a Problem (two tensors of one name, say); ALREADY_EXISTS when `path` exists and
  // `replace` is false; RESOURCE_EXHAUSTED when the file system has less room than the file takes
  // (names both); else what the system says of the path.
  static absl::StatusOr<std::unique_ptr<PackedWriter>> Create(std::filesystem::path path,
                                                              PackedIndex index,
                                                              const std::vector<std::string>& texts,
                                                              bool replace);
  ~PackedWriter();  // removes the temporary file unless it was committed
  PackedWriter(const PackedWriter&) = delete;
  PackedWriter& operator=(const PackedWriter&) = delete;

  const PackedIndex& index() const { return index_; }
  // Bytes of a tensor, from `begin` within it.
  absl::Status Write(size_t entry, uint64_t begin, std::span<const std::byte> bytes);
  void SetChecksum(size_t entry, uint32_t checksum);
  // PackedEntry::squared_errors and squared_weights.
  void SetErrors(size_t entry, double squared_errors, double squared_weights);

  // Writes header and table, waits until the disk has everything, and renames. Once. When it fails
  // nothing lies at `path` that did not before.
  absl::Status Commit();

 private:
  PackedWriter() = default;
  absl::Status MakeTemporary();  // and opens it

  std::filesystem::path path_;
  std::filesystem::path temporary_;  // empty once it was renamed
  PackedIndex index_;
  bool replace_ = false;
  int descriptor_ = -1;
};

}  // namespace conclave::weights
