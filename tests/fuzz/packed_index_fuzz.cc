// Feeds bytes to the reader of packed files as if they were the start of one: nothing may crash,
// and what is accepted must keep the promises of packed_index.h, and be the same when it is written
// and read again.
//
// Built twice: with -DCONCLAVE_BUILD_FUZZERS=ON (clang) as a libFuzzer program, and always into the
// test that replays the corpus.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <span>
#include <string>

#include "shared/base/crc32c.h"
#include "shared/weights/packed_index.h"

namespace {

using namespace conclave::weights;

void Require(bool condition) {
  if (!condition) std::abort();
}

uint64_t NumberAt(std::span<const std::byte> bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = size; i-- > 0;) value = value << 8 | static_cast<uint64_t>(bytes[at + i]);
  return value;
}

void SetNumber(std::span<std::byte> bytes, size_t at, uint32_t value) {
  for (size_t i = 0; i < sizeof(value); ++i) bytes[at + i] = static_cast<std::byte>(value >> 8 * i);
}

// Checksums that are right, so that what they cover is looked at: nobody guesses 64 bits.
void Sign(std::span<std::byte> file) {
  if (file.size() < kPackedHeaderBytes) return;
  const uint64_t table_bytes = NumberAt(file, 32, 8);
  if (table_bytes <= file.size() - kPackedHeaderBytes) {
    SetNumber(file, 40, conclave::Crc32c(file.subspan(kPackedHeaderBytes, table_bytes)));
  }
  SetNumber(file, 12, 0);
  SetNumber(file, 12, conclave::Crc32c(file.first(kPackedHeaderBytes)));
}

void CheckAccepted(const PackedIndex& index, std::span<const std::byte> file, uint64_t file_bytes) {
  Require(index.file_bytes == file_bytes && index.data_offset % kPackedPageBytes == 0);
  std::set<std::string> names;
  uint64_t end = kPackedHeaderBytes + index.TableBytes();
  for (const PackedText& text : index.texts) {
    Require(text.offset >= end && text.bytes <= index.data_offset - text.offset);
    Require(!text.name.empty() && text.name[0] != '/' && names.insert(text.name).second);
    end = text.offset + text.bytes;
  }
  Require(end <= index.data_offset);
  end = index.data_offset;
  names.clear();
  for (const PackedEntry& entry : index.entries) {
    Require(entry.offset >= end && entry.offset % kPackedEntryAlignment == 0);
    Require(entry.offset <= file_bytes && entry.bytes <= file_bytes - entry.offset);
    Require(!entry.name.empty() && names.insert(entry.name).second);
    end = entry.offset + entry.bytes;
  }
  Require(end == file_bytes);

  const std::string again = index.Serialise();
  const auto bytes = std::as_bytes(std::span(again));
  Require(std::equal(bytes.begin(), bytes.end(), file.begin()));
  const auto same = ParsePackedIndex("fuzz", bytes, file_bytes);
  Require(same.ok() && *same == index);
}

void Read(std::span<const std::byte> file, uint64_t file_bytes) {
  const auto index = ParsePackedIndex("fuzz", file, file_bytes);
  if (index.ok()) CheckAccepted(*index, file, file_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string copy(reinterpret_cast<const char*>(data), size);
  const auto file = std::as_writable_bytes(std::span(copy));
  Read(file, size);
  // The corpus holds headers and tables without what follows: as much is pretended as they say.
  for (int round = 0; round < 2; ++round) {
    if (size >= kPackedHeaderBytes) Read(file, std::max<uint64_t>(size, NumberAt(file, 16, 8)));
    Sign(file);
  }
  return 0;
}
