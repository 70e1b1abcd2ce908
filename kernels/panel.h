// Where an element lies in a panel: 16 outputs side by side, so that a SIMD lane owns one output.
// Weight matrices and the blocks of the KV cache are made of panels. Internal to kernels/.
//
// A panel is a sequence of steps, the least that a chain of multiply-adds may be cut into:
//
//   f32   an input: 16 floats
//   bf16  two inputs: [16][2]; an odd last input is paired with a zero
//   int8  a group: 16 scales (f32), then [group / 4][16][4] bytes, each a weight + 128
//   int4  a group: 16 scales (f32), then [group / 8][16][4] bytes. In byte b of row i the lower
//         half is the weight of input 8 i + b, plus 8, the upper half that of 8 i + 4 + b.
//         With zero points the halves are as they were given, 0 to 15, and the weight is a half
//         less the group's zero point, which lies in the lowest four bits of its scale.
//
// The last group is padded with weights of zero. Integers are stored with an offset because the
// processors multiply unsigned bytes by signed ones.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/matrix.h"

namespace conclave::kernels {

inline int64_t StepInputs(WeightFormat format) {
  switch (format.type) {
    case WeightType::kF32:
      return 1;
    case WeightType::kBf16:
      return 2;
    case WeightType::kInt8:
    case WeightType::kInt4:
      break;
  }
  return format.group;
}

inline int64_t NumSteps(WeightFormat format, int64_t num_inputs) {
  const int64_t inputs = StepInputs(format);
  return (num_inputs + inputs - 1) / inputs;
}

inline constexpr int64_t kScalesBytes = kPanelOutputs * static_cast<int64_t>(sizeof(float));

// Bytes of a step of a panel; a multiple of 64.
inline int64_t StepPanelBytes(WeightFormat format) {
  if (!format.integers()) return kPanelOutputs * static_cast<int64_t>(sizeof(float));
  const int64_t values = format.group * kPanelOutputs;
  return kScalesBytes + (format.type == WeightType::kInt8 ? values : values / 2);
}

// Bytes of one panel of `num_inputs` inputs; a multiple of 64.
inline size_t PanelBytes(WeightFormat format, int64_t num_inputs) {
  return static_cast<size_t>(NumSteps(format, num_inputs) * StepPanelBytes(format));
}

inline int64_t NumPanels(int64_t num_outputs) {
  return (num_outputs + kPanelOutputs - 1) / kPanelOutputs;
}

// Formats f32 and bf16: the index, in elements of the format, of (input, output) in a panel.
inline int64_t PanelIndex(WeightFormat format, int64_t input, int64_t output) {
  return format == WeightFormat::kF32 ? input * kPanelOutputs + output
                                      : (input / 2) * (2 * kPanelOutputs) + output * 2 + input % 2;
}

// The element at such an index, widened to f32.
inline float PanelValue(WeightFormat format, const std::byte* panel, int64_t index) {
  return format == WeightFormat::kF32 ? reinterpret_cast<const float*>(panel)[index]
                                      : ToFloat(reinterpret_cast<const bf16*>(panel)[index]);
}

// A step of an integer format. `Byte` is std::byte or const std::byte.
template <typename Byte>
class GroupPanel {
 public:
  GroupPanel(WeightFormat format, Byte* step)
      : type_(format.type), zeros_(format.zeros), step_(step) {}

  float scale(int64_t output) const {
    return std::bit_cast<float>(zeros_ ? ScaleBits(output) & ~kZeroBits : ScaleBits(output));
  }
  void SetScale(int64_t output, float scale) const {
    std::memcpy(step_ + output * 4, &scale, sizeof(scale));
  }
  // Format int4: what is taken from each half of a byte.
  int32_t zero(int64_t output) const {
    return zeros_ ? static_cast<int32_t>(ScaleBits(output) & kZeroBits) : 8;
  }
  // After SetScale, whose lowest four bits were 0.
  void SetZero(int64_t output, uint8_t zero) const {
    const uint32_t bits = ScaleBits(output) | zero;
    std::memcpy(step_ + output * 4, &bits, sizeof(bits));
  }

  // Of an input of the group.
  int32_t value(int64_t input, int64_t output) const {
    if (type_ == WeightType::kInt8) return static_cast<int32_t>(*Int8At(input, output)) - 128;
    const int32_t both = static_cast<int32_t>(*Int4At(input, output));
    return (input % 8 < 4 ? both & 15 : both >> 4) - zero(output);
  }
  // All `group` values of an output; of int4 each half of a byte less 8, whatever the zero point.
  void SetValues(int64_t output, const int8_t* values, int64_t group) const {
    const auto word = [values](int64_t input) {  // of four values
      uint32_t word;
      std::memcpy(&word, values + input, sizeof(word));
      return word;
    };
    const auto half = [word](int64_t input) {  // adding 8 to half a byte is turning over its bit 3
      return (word(input) ^ 0x08080808u) & 0x0f0f0f0fu;
    };
    const int64_t inputs = type_ == WeightType::kInt8 ? 4 : 8;  // of a word of the panel
    for (int64_t input = 0; input < group; input += inputs) {
      const uint32_t packed = type_ == WeightType::kInt8 ? word(input) ^ 0x80808080u
                                                         : half(input) | half(input + 4) << 4;
      std::memcpy(type_ == WeightType::kInt8 ? Int8At(input, output) : Int4At(input, output),
                  &packed, sizeof(packed));
    }
  }

 private:
  static constexpr uint32_t kZeroBits = 15;

  uint32_t ScaleBits(int64_t output) const {
    uint32_t bits;
    std::memcpy(&bits, step_ + output * 4, sizeof(bits));
    return bits;
  }
  Byte* Int8At(int64_t input, int64_t output) const {
    return step_ + kScalesBytes + (input / 4 * kPanelOutputs + output) * 4 + input % 4;
  }
  Byte* Int4At(int64_t input, int64_t output) const {
    return step_ + kScalesBytes + (input / 8 * kPanelOutputs + output) * 4 + input % 4;
  }

  WeightType type_;
  bool zeros_;
  Byte* step_;
};

}  // namespace conclave::kernels
