// A small packed file in memory, and what damages it, for the tests of packed files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/crc32c.h"
#include "shared/weights/packed_index.h"
#include "shared/weights/packed_layout.h"

namespace conclave::testing {

inline std::span<const std::byte> BytesOfText(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// Unsigned, little-endian.
inline void PutNumber(std::string& bytes, size_t at, size_t size, uint64_t value) {
  for (size_t i = 0; i < size; ++i) bytes[at + i] = static_cast<char>(value >> (8 * i));
}

inline uint64_t GetNumber(std::string_view bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = size; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

// Gives the header, as it is now, its checksum (docs/packed-format.md).
inline void SignHeader(std::string& file) {
  PutNumber(file, 12, 4, 0);
  PutNumber(file, 12, 4, Crc32c(BytesOfText(file).first(128)));
}

// And before it the table, which takes what the header says.
inline void SignAll(std::string& file) {
  const auto table = BytesOfText(file).subspan(128, GetNumber(file, 32, 8));
  PutNumber(file, 40, 4, Crc32c(table));
  SignHeader(file);
}

inline const std::vector<std::string>& SmallTexts() {
  static const std::vector<std::string> texts = {"{\"a\": 1}\n", "", "{{ messages }}"};
  return texts;
}

// Three texts; a matrix, a vector and a row-major table; the last begins a block of its own.
inline weights::PackedIndex SmallIndex() {
  using Order = weights::PackedEntry::Order;
  weights::PackedLayout layout(std::string(62, '0') + "a7", "int8+int4");
  layout.AddText("config.json", SmallTexts()[0]);
  layout.AddText("generation_config.json", SmallTexts()[1]);
  layout.AddText("additional_chat_templates/tool_use.jinja", SmallTexts()[2]);
  weights::PackedEntry matrix;
  matrix.name = "model.layers.0.self_attn.q_proj.weight[0:16]";
  matrix.order = Order::kPanels;
  matrix.type = 3;
  matrix.group = 32;
  matrix.rows = 5;
  matrix.columns = 7;
  matrix.bytes = 100;
  matrix.squared_errors = 0.25;
  matrix.squared_weights = 3;
  layout.AddEntry(matrix);
  weights::PackedEntry vector;
  vector.name = "model.norm.weight";
  vector.order = Order::kVector;
  vector.type = 1;
  vector.rows = 6;
  vector.columns = 1;
  vector.bytes = 24;
  layout.AddEntry(vector);
  layout.BeginBlock();
  weights::PackedEntry table;
  table.name = "model.embed_tokens.weight";
  table.order = Order::kRowMajor;
  table.type = 2;
  table.rows = 9;
  table.columns = 3;
  table.bytes = 54;
  layout.AddEntry(table);
  return std::move(layout).Finish();
}

// The bytes of its tensors: none is zero.
inline std::string SmallTensor(const weights::PackedEntry& entry) {
  std::string bytes(entry.bytes, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>(1 + (i * 7 + entry.rows) % 255);
  }
  return bytes;
}

// The whole file, put together without PackedWriter.
inline std::string SmallFile() {
  weights::PackedIndex index = SmallIndex();
  for (weights::PackedEntry& entry : index.entries) {
    entry.checksum = Crc32c(BytesOfText(SmallTensor(entry)));
  }
  std::string file = index.Serialise();
  file.resize(index.file_bytes);
  for (size_t i = 0; i < index.texts.size(); ++i) {
    file.replace(index.texts[i].offset, index.texts[i].bytes, SmallTexts()[i]);
  }
  for (const weights::PackedEntry& entry : index.entries) {
    file.replace(entry.offset, entry.bytes, SmallTensor(entry));
  }
  return file;
}

}  // namespace conclave::testing
