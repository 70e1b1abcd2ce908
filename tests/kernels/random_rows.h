// Random activations and packed weights for kernel tests, and the levels to run them at.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::kernels {

inline constexpr WeightFormat kFloatFormats[] = {WeightFormat::kF32, WeightFormat::kBf16};
inline constexpr WeightFormat kIntegerFormats[] = {
    {WeightType::kInt8, 32}, {WeightType::kInt8, 64}, {WeightType::kInt8, 128},
    {WeightType::kInt4, 32}, {WeightType::kInt4, 64}, {WeightType::kInt4, 128}};
inline constexpr WeightFormat kAllFormats[] = {WeightFormat::kF32,       WeightFormat::kBf16,
                                               {WeightType::kInt8, 32},  WeightFormat::kInt8,
                                               {WeightType::kInt8, 128}, {WeightType::kInt4, 32},
                                               WeightFormat::kInt4,      {WeightType::kInt4, 128}};
inline constexpr WeightFormat kZeroFormats[] = {
    {WeightType::kInt4, 32, true}, {WeightType::kInt4, 64, true}, {WeightType::kInt4, 128, true}};

// Every level that this processor has.
inline std::vector<CpuLevel> SupportedLevels() {
  std::vector<CpuLevel> levels;
  for (CpuLevel level : kCpuLevels) {
    if (CpuSupports(level)) levels.push_back(level);
  }
  return levels;
}

class Rng {
 public:
  explicit Rng(uint64_t seed) : engine_(seed) {}

  float Normal(float deviation = 1.0f) { return deviation * normal_(engine_); }
  int64_t Below(int64_t end) {
    return static_cast<int64_t>(engine_() % static_cast<uint64_t>(end));
  }

  std::vector<float> Normals(int64_t count, float deviation = 1.0f) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = Normal(deviation);
    return values;
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_;
};

// 64-byte aligned zeros.
class AlignedBytes {
 public:
  explicit AlignedBytes(size_t bytes) {
    const size_t rounded = (bytes + 63) / 64 * 64;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, rounded)));
    std::memset(data_.get(), 0, rounded);
  }
  std::byte* data() { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

// Int4 weights as a checkpoint may have them, with the memory of a view.
struct OwnedInt4Rows {
  // All integers occur, and zero points if the format has them; scales are of 10 binary digits.
  OwnedInt4Rows(Rng& rng, WeightFormat format, int64_t num_rows, int64_t num_inputs)
      : groups((num_inputs + format.group - 1) / format.group) {
    for (int64_t i = 0; i < num_rows * num_inputs; ++i) {
      integers.push_back(static_cast<uint8_t>(rng.Below(16)));
    }
    for (int64_t i = 0; i < num_rows * groups; ++i) {
      scales.push_back(static_cast<float>(rng.Below(1024) - 300) * 0x1p-14f);
      if (format.zeros) zeros.push_back(static_cast<uint8_t>(rng.Below(16)));
    }
    view = {DenseView<const uint8_t>(integers.data(), num_rows, num_inputs),
            DenseView<const float>(scales.data(), num_rows, groups),
            format.zeros ? zeros.data() : nullptr};
  }

  // What is multiplied, and the weight.
  int Integer(int64_t row, int64_t input, int32_t group) const {
    const int64_t g = row * groups + input / group;
    return integers[static_cast<size_t>(row * view.integers.cols + input)] -
           (zeros.empty() ? 8 : zeros[static_cast<size_t>(g)]);
  }
  float Scale(int64_t row, int64_t input, int32_t group) const {
    return scales[static_cast<size_t>(row * groups + input / group)];
  }

  int64_t groups;
  std::vector<uint8_t> integers, zeros;
  std::vector<float> scales;
  Int4Rows view;
};

// A packed matrix with its memory.
class OwnedMatrix {
 public:
  OwnedMatrix(WeightFormat format, int64_t num_outputs, int64_t num_inputs,
              const std::vector<float>& values)
      : bytes_(PackedBytes(format, num_outputs, num_inputs)),
        view_{format, num_outputs, num_inputs, bytes_.data()} {
    PackRows(format, num_inputs, 0, DenseView(values.data(), num_outputs, num_inputs),
             bytes_.data());
  }

  OwnedMatrix(WeightFormat format, const OwnedInt4Rows& rows)
      : bytes_(PackedBytes(format, rows.view.integers.rows, rows.view.integers.cols)),
        view_{format, rows.view.integers.rows, rows.view.integers.cols, bytes_.data()} {
    PackInt4Rows(format, view_.num_inputs, 0, rows.view, bytes_.data());
  }

  const PackedMatrix& view() const { return view_; }

 private:
  AlignedBytes bytes_;
  PackedMatrix view_;
};

inline OwnedMatrix RandomMatrix(Rng& rng, WeightFormat format, int64_t num_outputs,
                                int64_t num_inputs) {
  if (format.zeros) {
    return OwnedMatrix(format, OwnedInt4Rows(rng, format, num_outputs, num_inputs));
  }
  return OwnedMatrix(format, num_outputs, num_inputs, rng.Normals(num_outputs * num_inputs, 0.3f));
}

// Equal bits; NaNs are equal whatever their payload. Names the first difference.
inline ::testing::AssertionResult SameBits(const std::vector<float>& actual,
                                           const std::vector<float>& expected) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure() << actual.size() << " values, not " << expected.size();
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    const bool both_nan = actual[i] != actual[i] && expected[i] != expected[i];
    if (!both_nan && std::bit_cast<uint32_t>(actual[i]) != std::bit_cast<uint32_t>(expected[i])) {
      return ::testing::AssertionFailure()
             << "value " << i << " is " << actual[i] << ", not " << expected[i] << " (bits "
             << std::hex << std::bit_cast<uint32_t>(actual[i]) << ", "
             << std::bit_cast<uint32_t>(expected[i]) << ")";
    }
  }
  return ::testing::AssertionSuccess();
}

inline std::string NameOf(WeightFormat format) {
  const std::string type(WeightTypeName(format.type));
  if (!format.integers()) return type;
  return type + "/" + std::to_string(format.group) + (format.zeros ? " with zeros" : "");
}

}  // namespace conclave::kernels
