#include "shared/weights/dtype.h"

#include <array>
#include <bit>
#include <cstring>

#include "kernels/bf16.h"
#include "shared/base/check.h"

namespace conclave::weights {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  int bits;
};

constexpr std::array kDTypes = {
    DTypeRow{DType::kBool, "BOOL", 8},      DTypeRow{DType::kF4, "F4", 4},
    DTypeRow{DType::kF6E2M3, "F6_E2M3", 6}, DTypeRow{DType::kF6E3M2, "F6_E3M2", 6},
    DTypeRow{DType::kU8, "U8", 8},          DTypeRow{DType::kI8, "I8", 8},
    DTypeRow{DType::kF8E5M2, "F8_E5M2", 8}, DTypeRow{DType::kF8E4M3, "F8_E4M3", 8},
    DTypeRow{DType::kF8E8M0, "F8_E8M0", 8}, DTypeRow{DType::kI16, "I16", 16},
    DTypeRow{DType::kU16, "U16", 16},       DTypeRow{DType::kF16, "F16", 16},
    DTypeRow{DType::kBf16, "BF16", 16},     DTypeRow{DType::kI32, "I32", 32},
    DTypeRow{DType::kU32, "U32", 32},       DTypeRow{DType::kF32, "F32", 32},
    DTypeRow{DType::kC64, "C64", 64},       DTypeRow{DType::kF64, "F64", 64},
    DTypeRow{DType::kI64, "I64", 64},       DTypeRow{DType::kU64, "U64", 64},
};

const DTypeRow& RowOf(DType dtype) {
  const DTypeRow& row = kDTypes[static_cast<size_t>(dtype)];
  CONCLAVE_CHECK(row.dtype == dtype);
  return row;
}

template <typename T>
T Load(const std::byte* source) {
  T value;
  std::memcpy(&value, source, sizeof(T));
  return value;
}

}  // namespace

std::string_view DTypeName(DType dtype) { return RowOf(dtype).name; }

std::optional<DType> ParseDType(std::string_view name) {
  for (const DTypeRow& row : kDTypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

int DTypeBits(DType dtype) { return RowOf(dtype).bits; }

bool IsPlainFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBf16;
}

float HalfToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    // Zero or subnormal: mantissa * 2^-24, exact in f32.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

float Float8ToFloat(uint8_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24;
  const uint32_t exponent = (bits >> 3) & 0xfu;
  const uint32_t mantissa = bits & 0x7u;
  if (exponent == 0xf && mantissa == 0x7) {
    return std::bit_cast<float>(sign | 0x7fc00000u);
  }
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-9f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 120) << 23) | (mantissa << 20));
}

void WidenToFloat(DType dtype, const std::byte* source, std::span<float> output) {
  CONCLAVE_CHECK(IsPlainFloat(dtype));
  switch (dtype) {
    case DType::kF32:
      std::memcpy(output.data(), source, output.size_bytes());
      break;
    case DType::kF16:
      for (size_t i = 0; i < output.size(); ++i) {
        output[i] = HalfToFloat(Load<uint16_t>(source + 2 * i));
      }
      break;
    default:
      for (size_t i = 0; i < output.size(); ++i) {
        output[i] = kernels::ToFloat(kernels::bf16{Load<uint16_t>(source + 2 * i)});
      }
  }
}

}  // namespace conclave::weights
