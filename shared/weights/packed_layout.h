// Gives the texts and tensors of a packed file their places, before any byte of them is written.
//
// Pure. What it is given is not checked: PackedIndex::Problem does (PackedWriter::Create asks it).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "shared/weights/packed_index.h"

namespace conclave::weights {

class PackedLayout {
 public:
  PackedLayout(std::string fingerprint, std::string numerics);

  // Texts lie before tensors, in whatever order they are added.
  void AddText(std::string_view name, std::string_view bytes);
  // The next tensor begins on a page: what is loaded and let go together (an expert, a layer).
  void BeginBlock() { begins_block_ = true; }
  // `entry` without its place. Its index in PackedIndex::entries.
  size_t AddEntry(PackedEntry entry);
  PackedIndex Finish() &&;

 private:
  PackedIndex index_;
  bool begins_block_ = true;
  uint64_t next_ = 0;  // where the last tensor ends; relative to data_offset until Finish
};

}  // namespace conclave::weights
