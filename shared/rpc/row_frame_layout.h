// Offsets and sizes of the row frames' fields: docs/wire-format.md as constants. For the encoder
// and the parser alone.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "shared/rpc/row_frame.h"

namespace conclave::rpc::layout {

static_assert(std::endian::native == std::endian::little,
              "frames are little-endian and are copied as they lie");
static_assert(sizeof(RowReference) == 8 && sizeof(Answer) == 8, "tables are copied as they lie");

inline constexpr uint32_t kMagic = 0x46524E43;  // "CNRF" in memory

enum class Kind : uint8_t { kHello = 1, kRequest = 2, kResults = 3, kError = 4, kCancel = 5 };

// Every frame.
inline constexpr size_t kMagicAt = 0;         // u32
inline constexpr size_t kVersionAt = 4;       // u16
inline constexpr size_t kKindAt = 6;          // u8
inline constexpr size_t kFlagsAt = 7;         // u8
inline constexpr size_t kFrameBytesAt = 8;    // u32
inline constexpr size_t kHeaderBytesAt = 12;  // u32
inline constexpr size_t kCallIdAt = 16;       // u64
inline constexpr size_t kCommonBytes = 24;

// Hello.
inline constexpr size_t kHelloFingerprintAt = 24;  // 32 bytes
inline constexpr size_t kHelloNumericsAt = 56;     // u8
inline constexpr size_t kHelloRowTypeAt = 57;      // u8
inline constexpr size_t kHelloNameBytesAt = 58;    // u16
inline constexpr size_t kHelloWindowAt = 64;       // u64
inline constexpr size_t kHelloBytes = 72;

// Request.
inline constexpr size_t kRequestFingerprintAt = 24;  // 32 bytes
inline constexpr size_t kRequestNumericsAt = 56;     // u8
inline constexpr size_t kRequestRowTypeAt = 57;      // u8
inline constexpr size_t kRequestQosAt = 58;          // u8
inline constexpr size_t kRequestTraceBytesAt = 59;   // u8
inline constexpr size_t kRequestLayerAt = 60;        // u32
inline constexpr size_t kRequestHiddenAt = 64;       // u32
inline constexpr size_t kRequestWeightAt = 68;       // f32
inline constexpr size_t kRequestRemainingAt = 72;    // u32
inline constexpr size_t kRequestRowsAt = 76;         // u32
inline constexpr size_t kRequestReferencesAt = 80;   // u32
inline constexpr size_t kRequestDueAt = 84;          // u32
inline constexpr size_t kRequestBytes = 88;

// Results.
inline constexpr uint8_t kResultsLastFlag = 1;
inline constexpr size_t kResultsLayerAt = 24;    // u32
inline constexpr size_t kResultsHiddenAt = 28;   // u32
inline constexpr size_t kResultsRowTypeAt = 32;  // u8
inline constexpr size_t kResultsAnswersAt = 36;  // u32
inline constexpr size_t kResultsRowsAt = 40;     // u32
inline constexpr size_t kResultsComputeAt = 48;  // u64
inline constexpr size_t kResultsQueueAt = 56;    // u64
inline constexpr size_t kResultsBytes = 64;

// Error.
inline constexpr size_t kErrorCodeAt = 24;          // u32
inline constexpr size_t kErrorMessageBytesAt = 28;  // u32
inline constexpr size_t kErrorBytes = 32;

inline constexpr size_t kMaxTraceparentBytes = 128;
inline constexpr uint32_t kMaxLayer = 0xffff;
inline constexpr uint32_t kMaxExpert = 0xffff;

// Rows start at a multiple of 8, so that they are aligned whenever the message is.
inline constexpr size_t PadTo8(size_t bytes) { return (bytes + 7) / 8 * 8; }

template <typename T>
T Load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

template <typename T>
void Store(std::byte* bytes, T value) {
  std::memcpy(bytes, &value, sizeof(T));
}

}  // namespace conclave::rpc::layout
