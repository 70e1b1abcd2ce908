// Element types as safetensors files store them, and their exact conversion to f32.
//
// Pure functions, safe on any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace conclave::weights {

// Every type that the safetensors format knows. Conclave computes with F32, F16, BF16 and F8_E4M3;
// the others are parsed so that a message can name them.
enum class DType : uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kI16,
  kU16,
  kF16,
  kBf16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

// The name in a file: "BF16", "F8_E4M3", ...
std::string_view DTypeName(DType dtype);
std::optional<DType> ParseDType(std::string_view name);
int DTypeBits(DType dtype);

// True for F32, F16 and BF16: types whose elements convert to f32 alone, without a scale.
bool IsPlainFloat(DType dtype);

// IEEE 754 half precision; subnormals, infinities and NaNs included.
float HalfToFloat(uint16_t bits);

// F8_E4M3 as PyTorch's float8_e4m3fn: no infinities, 0x7f and 0xff are NaN, the largest is 448.
float Float8ToFloat(uint8_t bits);

// Widens output.size() elements of a plain float type. `source` needs no alignment.
void WidenToFloat(DType dtype, const std::byte* source, std::span<float> output);

}  // namespace conclave::weights
