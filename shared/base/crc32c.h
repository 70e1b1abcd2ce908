// CRC-32C (Castagnoli; RFC 3720, appendix B.4): what finds damaged bytes in files of ours.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace conclave {

// Of `bytes` after what `crc` is the checksum of; 0 is that of nothing. By the processor's
// instruction where it has one (SSE 4.2), several streams at once; the same value everywhere.
// Thread-safe.
uint32_t ExtendCrc32c(uint32_t crc, std::span<const std::byte> bytes);

inline uint32_t Crc32c(std::span<const std::byte> bytes) { return ExtendCrc32c(0, bytes); }

namespace internal {

// The two ways to the same value, for the test that compares them.
uint32_t ExtendCrc32cByTable(uint32_t crc, std::span<const std::byte> bytes);
uint32_t ExtendCrc32cByInstruction(uint32_t crc, std::span<const std::byte> bytes);
bool HasCrc32cInstruction();  // ExtendCrc32cByInstruction may be called

}  // namespace internal
}  // namespace conclave
