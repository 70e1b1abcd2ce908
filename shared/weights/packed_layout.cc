#include "shared/weights/packed_layout.h"

#include <span>
#include <utility>

#include "shared/base/crc32c.h"

namespace conclave::weights {

PackedLayout::PackedLayout(std::string fingerprint, std::string numerics) {
  index_.fingerprint = std::move(fingerprint);
  index_.numerics = std::move(numerics);
}

void PackedLayout::AddText(std::string_view name, std::string_view bytes) {
  index_.texts.push_back({.name = std::string(name),
                          .offset = 0,
                          .bytes = bytes.size(),
                          .checksum = Crc32c(std::as_bytes(std::span(bytes)))});
}

size_t PackedLayout::AddEntry(PackedEntry entry) {
  entry.offset =
      internal::RoundUpPacked(next_, begins_block_ ? kPackedPageBytes : kPackedEntryAlignment);
  begins_block_ = false;
  next_ = entry.offset + entry.bytes;
  index_.entries.push_back(std::move(entry));
  return index_.entries.size() - 1;
}

PackedIndex PackedLayout::Finish() && {
  uint64_t end = kPackedHeaderBytes + index_.TableBytes();
  for (PackedText& text : index_.texts) {
    text.offset = internal::RoundUpPacked(end, kPackedTextAlignment);
    end = text.offset + text.bytes;
  }
  index_.data_offset = internal::RoundUpPacked(end, kPackedPageBytes);
  for (PackedEntry& entry : index_.entries) entry.offset += index_.data_offset;
  index_.file_bytes = index_.data_offset + next_;
  return std::move(index_);
}

}  // namespace conclave::weights
