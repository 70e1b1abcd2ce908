#include "shared/base/utf8.h"

#include <cstdint>

namespace conclave {
namespace {

// Of the character that begins with a byte: how many bytes it has (0: none begins so), and what may
// come second, which tells what is overlong, a surrogate, or too large (Unicode 15, table 3-7).
struct Form {
  size_t num_bytes = 0;
  uint8_t low = 0x80, high = 0xBF;
};

Form FormOf(uint8_t first) {
  if (first < 0x80) return {.num_bytes = 1};
  if (first < 0xC2) return {};
  if (first <= 0xDF) return {.num_bytes = 2};
  if (first == 0xE0) return {.num_bytes = 3, .low = 0xA0};
  if (first == 0xED) return {.num_bytes = 3, .high = 0x9F};
  if (first <= 0xEF) return {.num_bytes = 3};
  if (first == 0xF0) return {.num_bytes = 4, .low = 0x90};
  if (first <= 0xF3) return {.num_bytes = 4};
  if (first == 0xF4) return {.num_bytes = 4, .high = 0x8F};
  return {};
}

}  // namespace

Utf8Sequence Utf8SequenceAt(std::string_view bytes, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[at + i]); };
  Form form = FormOf(byte(0));
  Utf8Sequence sequence;
  if (form.num_bytes == 0) return sequence;
  for (; sequence.num_bytes < form.num_bytes; ++sequence.num_bytes) {
    if (at + sequence.num_bytes == bytes.size()) return sequence;
    const uint8_t next = byte(sequence.num_bytes);
    if (next < form.low || next > form.high) return sequence;
    form.low = 0x80;
    form.high = 0xBF;
  }
  sequence.whole = true;
  return sequence;
}

std::optional<size_t> FirstInvalidUtf8(std::string_view bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Sequence sequence = Utf8SequenceAt(bytes, at);
    if (!sequence.whole) return at;
    at += sequence.num_bytes;
  }
  return std::nullopt;
}

}  // namespace conclave
