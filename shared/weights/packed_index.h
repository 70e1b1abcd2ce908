// The table at the front of a packed file: what lies where, with checksums. docs/packed-format.md
// defines the bytes.
//
// Pure: from bytes to values and back. Knows no kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::weights {

inline constexpr uint32_t kPackedVersion = 3;        // that is written
inline constexpr uint32_t kOldestPackedVersion = 2;  // that is read
inline constexpr uint64_t kPackedHeaderBytes = 128;
inline constexpr uint64_t kPackedPageBytes = 4096;     // blocks begin on pages
inline constexpr uint64_t kPackedEntryAlignment = 64;  // a cache line, and a 512-bit register
inline constexpr uint64_t kPackedTextAlignment = 8;
inline constexpr size_t kMaxPackedNameBytes = 255;
inline constexpr size_t kMaxPackedNumericsBytes = 31;

// A file of the checkpoint's folder that travels inside: config.json, tokenizer.json and the like.
struct PackedText {
  // Unique, as an entry's; relative to the folder, no component "." or "..":
  // "additional_chat_templates/tool_use.jinja".
  std::string name;
  uint64_t offset = 0;  // from the start of the file
  uint64_t bytes = 0;
  uint32_t checksum = 0;  // CRC-32C
  friend bool operator==(const PackedText&, const PackedText&) = default;
};

// The type of int4 matrices whose groups have zero points.
inline constexpr uint8_t kPackedInt4WithZeros = 5;

// One tensor.
struct PackedEntry {
  enum class Order : uint8_t {
    kPanels = 1,    // a matrix in the kernels' order (kernels/panel.h)
    kRowMajor = 2,  // as it lies in the checkpoint, rounded: the embedding
    kVector = 3,    // `rows` elements of f32; columns is 1
  };
  std::string name;  // unique; printable ASCII, at most kMaxPackedNameBytes
  Order order = Order::kPanels;
  uint8_t type = 0;                // kernels::WeightType, or kPackedInt4WithZeros
  uint16_t group = 0;              // inputs that share a scale; 0 for floats
  uint64_t rows = 0, columns = 0;  // of a matrix: outputs, inputs
  uint64_t offset = 0;  // from the start of the file, a multiple of kPackedEntryAlignment
  uint64_t bytes = 0;
  uint32_t checksum = 0;  // CRC-32C
  // SquaredError of the rows that were looked at; of a file of version 2, of vectors and of what is
  // f32 in every format 0.
  double squared_errors = 0, squared_weights = 0;
  friend bool operator==(const PackedEntry&, const PackedEntry&) = default;
};

struct PackedIndex {
  uint32_t version = kPackedVersion;
  std::string fingerprint;           // 64 hex digits, as Checkpoint::Fingerprint
  std::string numerics;              // the numerics class, at most 31 bytes: "int8", "int8+int4"
  uint64_t data_offset = 0;          // of the first tensor, a multiple of kPackedPageBytes
  uint64_t file_bytes = 0;           // the whole file's
  std::vector<PackedText> texts;     // in the order of their bytes
  std::vector<PackedEntry> entries;  // in the order of their bytes
  friend bool operator==(const PackedIndex&, const PackedIndex&) = default;

  // Header and table, with their checksums: the file's first bytes, up to the first text.
  // Precondition: no Problem.
  std::string Serialise() const;

  // The first thing that docs/packed-format.md forbids, naming text or tensor, what was found and
  // what was wanted; empty when there is none.
  std::string Problem() const;

  uint64_t TableBytes() const;
};

// Reads and checks header and table of a file of `file_bytes` bytes whose beginning (at least
// header and table, if it is that long) is `bytes`. Everything the table says is inside the file,
// aligned, in order and without overlap; names are unique. `path` is for messages.
// DATA_LOSS: damaged or cut short; UNIMPLEMENTED: of another version (names both);
// INVALID_ARGUMENT: no packed file. Each says what was found, what was wanted and what to do.
absl::StatusOr<PackedIndex> ParsePackedIndex(std::string_view path,
                                             std::span<const std::byte> bytes, uint64_t file_bytes);

// Whether a file that begins so claims to be packed.
bool LooksPacked(std::span<const std::byte> bytes);

namespace internal {

constexpr uint64_t RoundUpPacked(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }
// For messages: control bytes and long names must not reach a terminal.
std::string QuotedName(std::string_view name);

}  // namespace internal
}  // namespace conclave::weights
