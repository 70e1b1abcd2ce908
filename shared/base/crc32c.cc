#include "shared/base/crc32c.h"

#include <nmmintrin.h>

#include <array>
#include <cstring>

namespace conclave {
namespace {

// Registers hold polynomials over GF(2) modulo P with the lowest power in the highest bit
// ("reflected"), so that multiplying by x is a shift to the right.
constexpr uint32_t kPolynomial = 0x82f63b78;
constexpr uint32_t kOne = 0x80000000;

constexpr uint32_t TimesX(uint32_t a) { return (a >> 1) ^ (a & 1 ? kPolynomial : 0); }

constexpr uint32_t Times(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = kOne; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = TimesX(b);
  }
  return product;
}

// x to the power of `exponent`, by squaring.
constexpr uint32_t PowerOfX(uint64_t exponent) {
  uint32_t power = kOne;
  for (uint32_t square = TimesX(kOne); exponent != 0; exponent >>= 1) {
    if (exponent & 1) power = Times(power, square);
    square = Times(square, square);
  }
  return power;
}

// [byte value]: what a linear function makes of the value in one byte of its argument.
using ByteTable = std::array<uint32_t, 256>;

// Of the function "times `factor`", for byte `byte` of the argument; 0 is the lowest.
constexpr ByteTable ProductTable(uint32_t factor, int byte) {
  ByteTable table{};
  for (uint32_t value = 1; value < 256; ++value) {
    const uint32_t rest = value & (value - 1);  // all but the lowest bit: linear, so the sum of two
    table[value] =
        rest != 0 ? table[rest] ^ table[value ^ rest] : Times(value << (8 * byte), factor);
  }
  return table;
}

// What `kBytes` zero bytes make of a register: it is multiplied by x^(8 kBytes).
template <size_t kBytes>
constexpr std::array<ByteTable, 4> kShift = [] {
  std::array<ByteTable, 4> tables{};
  for (int byte = 0; byte < 4; ++byte) {
    tables[static_cast<size_t>(byte)] = ProductTable(PowerOfX(8 * kBytes), byte);
  }
  return tables;
}();

template <size_t kBytes>
uint64_t Shift(uint64_t crc) {
  const auto& tables = kShift<kBytes>;
  return tables[0][crc & 0xff] ^ tables[1][crc >> 8 & 0xff] ^ tables[2][crc >> 16 & 0xff] ^
         tables[3][crc >> 24 & 0xff];
}

// [i]: the lowest byte of a register, moved on by 1 + i bytes. With them eight bytes are taken at
// once ("slicing by 8": Kounavis and Berry, 2005).
constexpr std::array<ByteTable, 8> kSlices = [] {
  std::array<ByteTable, 8> tables{};
  for (uint64_t i = 0; i < 8; ++i) tables[i] = ProductTable(PowerOfX(8 * (i + 1)), 0);
  return tables;
}();

uint64_t WordAt(const std::byte* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

// The instruction takes three cycles and can begin every cycle: three streams keep it busy. Blocks
// of 4096 bytes for the bulk, within the first-level cache; of 256 for what is left, where joining
// the streams still costs less than one stream would.
constexpr size_t kLongBlock = 4096, kShortBlock = 256;

// Takes whole triples of blocks off the front of `bytes`.
template <size_t kBlock>
__attribute__((target("sse4.2"))) uint64_t TakeThreeStreams(uint64_t crc,
                                                            std::span<const std::byte>& bytes) {
  for (; bytes.size() >= 3 * kBlock; bytes = bytes.subspan(3 * kBlock)) {
    const std::byte* const first = bytes.data();
    const std::byte* const second = first + kBlock;
    const std::byte* const third = second + kBlock;
    uint64_t b = 0, c = 0;
    for (size_t i = 0; i < kBlock; i += 8) {
      crc = _mm_crc32_u64(crc, WordAt(first + i));
      b = _mm_crc32_u64(b, WordAt(second + i));
      c = _mm_crc32_u64(c, WordAt(third + i));
    }
    crc = Shift<kBlock>(Shift<kBlock>(crc) ^ b) ^ c;
  }
  return crc;
}

}  // namespace

namespace internal {

uint32_t ExtendCrc32cByTable(uint32_t crc, std::span<const std::byte> bytes) {
  crc = ~crc;
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    const uint64_t word = WordAt(bytes.data()) ^ crc;
    crc = 0;
    for (size_t i = 0; i < 8; ++i) crc ^= kSlices[7 - i][word >> (8 * i) & 0xff];
  }
  for (const std::byte byte : bytes) {
    crc = (crc >> 8) ^ kSlices[0][(crc ^ static_cast<uint32_t>(byte)) & 0xff];
  }
  return ~crc;
}

bool HasCrc32cInstruction() {
  static const bool has = __builtin_cpu_supports("sse4.2");
  return has;
}

__attribute__((target("sse4.2"))) uint32_t ExtendCrc32cByInstruction(
    uint32_t crc, std::span<const std::byte> bytes) {
  uint64_t wide = static_cast<uint32_t>(~crc);
  wide = TakeThreeStreams<kLongBlock>(wide, bytes);
  wide = TakeThreeStreams<kShortBlock>(wide, bytes);
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    wide = _mm_crc32_u64(wide, WordAt(bytes.data()));
  }
  crc = static_cast<uint32_t>(wide);
  for (const std::byte byte : bytes) crc = _mm_crc32_u8(crc, static_cast<uint8_t>(byte));
  return ~crc;
}

}  // namespace internal

uint32_t ExtendCrc32c(uint32_t crc, std::span<const std::byte> bytes) {
  return internal::HasCrc32cInstruction() ? internal::ExtendCrc32cByInstruction(crc, bytes)
                                          : internal::ExtendCrc32cByTable(crc, bytes);
}

}  // namespace conclave
