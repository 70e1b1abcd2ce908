#include "shared/weights/packed_file.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shared/base/check.h"
#include "shared/base/crc32c.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"

namespace conclave::weights {
namespace {

constexpr char kRemedy[] = "; copy or pack it again";
constexpr size_t kPieceBytes = 8 << 20;  // between two reports of progress: milliseconds

absl::Status WrongChecksum(const MappedFile& file, const char* kind, const std::string& name,
                           uint32_t found, uint32_t wanted) {
  return absl::DataLossError(absl::StrCat(
      file.path().string(), " is damaged: the ", kind, " \"", name, "\" has the checksum ",
      absl::Hex(found, absl::kZeroPad8), ", wanted ", absl::Hex(wanted, absl::kZeroPad8), kRemedy));
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedFile>> PackedFile::Open(const std::filesystem::path& path) {
  std::unique_ptr<PackedFile> packed(new PackedFile);
  ASSIGN_OR_RETURN(packed->file_, MappedFile::Open(path));
  const MappedFile& file = *packed->file_;
  ASSIGN_OR_RETURN(packed->index_,
                   ParsePackedIndex(path.string(), packed->Bytes(0, file.size()), file.size()));
  for (const PackedText& text : packed->index_.texts) RETURN_IF_ERROR(packed->CheckText(text));
  packed->by_name_.reserve(packed->index_.entries.size());
  for (const PackedEntry& entry : packed->index_.entries) packed->by_name_[entry.name] = &entry;
  return packed;
}

absl::Status PackedFile::CheckText(const PackedText& text) const {
  const uint32_t found = Crc32c(Bytes(text.offset, text.bytes));
  if (found == text.checksum) return absl::OkStatus();
  return WrongChecksum(*file_, "text", text.name, found, text.checksum);
}

absl::StatusOr<std::string_view> PackedFile::Text(std::string_view name) const {
  for (const PackedText& text : index_.texts) {
    if (text.name == name) return file_->View(text.offset, text.offset + text.bytes);
  }
  return absl::NotFoundError(absl::StrCat(path().string(), " has no text \"", std::string(name),
                                          "\"; pack the model again from a folder that has it"));
}

const PackedEntry* PackedFile::Find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

std::span<const std::byte> PackedFile::Bytes(const PackedEntry& entry) const {
  return Bytes(entry.offset, entry.bytes);
}

absl::Status PackedFile::Verify(const PackedEntry& entry) const {
  const uint32_t found = Crc32c(Bytes(entry));
  if (found == entry.checksum) return absl::OkStatus();
  return WrongChecksum(*file_, "tensor", entry.name, found, entry.checksum);
}

absl::Status PackedFile::CheckZeros(uint64_t begin, uint64_t end) const {
  const auto bytes = Bytes(begin, end - begin);
  const auto found =
      std::find_if(bytes.begin(), bytes.end(), [](std::byte b) { return b != std::byte{}; });
  if (found == bytes.end()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      path().string(), " is damaged: byte ", begin + static_cast<uint64_t>(found - bytes.begin()),
      ", which belongs to nothing, is ", static_cast<int>(*found), ", wanted 0", kRemedy));
}

absl::Status PackedFile::CheckTextPadding() const {
  uint64_t end = kPackedHeaderBytes + index_.TableBytes();
  for (const PackedText& text : index_.texts) {
    RETURN_IF_ERROR(CheckZeros(end, text.offset));
    end = text.offset + text.bytes;
  }
  return CheckZeros(end, index_.data_offset);
}

absl::Status PackedFile::CheckEntry(size_t i, const std::function<void(uint64_t)>& done) const {
  const PackedEntry& entry = index_.entries[i];
  if (i > 0) {
    const PackedEntry& before = index_.entries[i - 1];
    RETURN_IF_ERROR(CheckZeros(before.offset + before.bytes, entry.offset));
  }
  uint32_t found = 0;
  for (auto rest = Bytes(entry); !rest.empty();) {
    const size_t size = std::min(rest.size(), kPieceBytes);
    found = ExtendCrc32c(found, rest.first(size));
    rest = rest.subspan(size);
    done(size);
  }
  if (found == entry.checksum) return absl::OkStatus();
  return WrongChecksum(*file_, "tensor", entry.name, found, entry.checksum);
}

absl::Status PackedFile::VerifyAll(int threads,
                                   const std::function<void(uint64_t, uint64_t)>& progress) const {
  CONCLAVE_CHECK(threads > 0);
  RETURN_IF_ERROR(CheckTextPadding());
  const auto& entries = index_.entries;
  uint64_t total = 0;
  for (const PackedEntry& entry : entries) total += entry.bytes;

  // Tensors are taken in order and all that were taken are finished, so that the first damaged one
  // is found whatever the threads do.
  std::atomic<size_t> next = 0;
  std::atomic<uint64_t> done = 0;
  std::atomic<bool> failed = false;
  std::vector<absl::Status> results(entries.size());  // each written by one thread
  const auto read = [&](const std::function<void(uint64_t)>& count) {
    while (!failed) {
      const size_t i = next++;
      if (i >= entries.size()) return;
      results[i] = CheckEntry(i, count);
      if (!results[i].ok()) failed = true;
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) {
    others.emplace_back([&] {
      SetThreadName("verify");
      read([&](uint64_t bytes) { done += bytes; });
    });
  }
  read([&](uint64_t bytes) {
    const uint64_t so_far = done += bytes;
    if (progress && so_far < total) progress(so_far, total);
  });
  for (std::thread& thread : others) thread.join();
  for (const absl::Status& result : results) RETURN_IF_ERROR(result);
  if (progress) progress(total, total);
  return absl::OkStatus();
}

bool IsPackedFile(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return false;  // a pipe would wait
  std::array<char, 8> beginning;
  std::ifstream file(path, std::ios::binary);
  return file.read(beginning.data(), beginning.size()) &&
         LooksPacked(std::as_bytes(std::span(beginning)));
}

}  // namespace conclave::weights
