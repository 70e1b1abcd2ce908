#include "shared/weights/tensor_view.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "kernels/bf16.h"
#include "shared/base/check.h"
#include "shared/base/status_macros.h"

namespace conclave::weights {
namespace {

std::array<float, 256> MakeFloat8Table() {
  std::array<float, 256> table;
  for (size_t i = 0; i < table.size(); ++i) table[i] = Float8ToFloat(static_cast<uint8_t>(i));
  return table;
}

absl::Status WrongType(const StoredTensor& stored) {
  return absl::InvalidArgumentError(
      absl::StrCat(Described(stored),
                   ", wanted BF16, F16, F32, or F8_E4M3 with 128x128 block scales; use a "
                   "checkpoint in one of these types (docs/models.md)"));
}

int64_t Blocks(int64_t elements, int64_t block) { return (elements + block - 1) / block; }

// Finds and checks the scales of the FP8 tensor `stored`.
absl::StatusOr<BlockScales> FindScales(const StoredTensor& stored, const ShardSet& shards,
                                       const ModelConfig& config) {
  if (config.fp8_block == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(Described(stored),
                     ", but config.json has no quantization_config that says "
                     "how it is scaled; use config and weights of one revision"));
  }
  const std::string name = ScaleName(stored.info.name);
  const StoredTensor* scale = shards.Find(name);
  if (scale == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(Described(stored), ", but its scales, tensor ",
                                                   name,
                                                   ", are missing; download the checkpoint "
                                                   "again"));
  }
  std::vector<int64_t> wanted = stored.info.shape;
  for (size_t i = wanted.size() - 2; i < wanted.size(); ++i) {
    wanted[i] = Blocks(wanted[i], config.fp8_block);
  }
  const bool type_good = scale->info.dtype == DType::kF32 || scale->info.dtype == DType::kBf16;
  if (!type_good || scale->info.shape != wanted) {
    return absl::InvalidArgumentError(absl::StrCat(Described(*scale), ", wanted F32 or BF16 ",
                                                   ShapeText(wanted), ", a scale per ",
                                                   config.fp8_block, "x", config.fp8_block,
                                                   " block; use a checkpoint with such "
                                                   "scales (docs/models.md)"));
  }
  return BlockScales{.stored = scale,
                     .block = config.fp8_block,
                     .columns = wanted.back(),
                     .first_row = 0,
                     .begin = scale->info.begin};
}

}  // namespace

std::string ScaleName(const std::string& stored_name) {
  return absl::StrCat(stored_name, "_scale_inv");
}

TensorView TensorView::MakeIntegers(const TensorSpec& spec, const IntegerView& integers) {
  TensorView view;
  view.stored_ = integers.parts().front();
  view.rows_ = spec.shape[0];
  view.columns_ = spec.shape[1];
  view.begin_ = view.stored_->info.begin;
  view.integers_ = integers;
  return view;
}

absl::StatusOr<TensorView> TensorView::Make(const TensorSpec& spec, const StoredTensor& stored,
                                            const StackSlice* slice, const ShardSet& shards,
                                            const ModelConfig& config) {
  const std::vector<int64_t>& wanted = slice == nullptr ? spec.shape : slice->stored_shape;
  const DType dtype = stored.info.dtype;
  const bool float8 = dtype == DType::kF8E4M3 && wanted.size() >= 2;
  if (!IsPlainFloat(dtype) && !float8) return WrongType(stored);
  if (stored.info.shape != wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat(Described(stored), ", but config.json wants ", ShapeText(wanted),
                     "; config and weights are of different models or revisions: use both of one"));
  }
  TensorView view;
  view.stored_ = &stored;
  view.rows_ = spec.shape[0];
  view.columns_ = spec.shape.size() == 2 ? spec.shape[1] : 1;
  view.begin_ = stored.info.begin;
  if (float8) {
    ASSIGN_OR_RETURN(view.scales_, FindScales(stored, shards, config));
  }
  if (slice != nullptr) {
    const int64_t rows_before = slice->index * slice->stored_shape[1] + slice->first_row;
    view.begin_ += static_cast<uint64_t>(rows_before * view.columns_ * DTypeBits(dtype) / 8);
    if (float8) {
      const int64_t scales_before =
          slice->index * Blocks(slice->stored_shape[1], view.scales_.block) * view.scales_.columns;
      view.scales_.first_row = slice->first_row;
      view.scales_.begin +=
          static_cast<uint64_t>(scales_before * DTypeBits(view.scales_.stored->info.dtype) / 8);
    }
  }
  return view;
}

std::span<const std::byte> TensorView::bytes() const {
  if (integers_) return {stored_->data(), static_cast<size_t>(stored_->info.bytes())};
  const int64_t size = rows_ * columns_ * DTypeBits(dtype()) / 8;
  return {stored_->file->data() + begin_, static_cast<size_t>(size)};
}

std::span<const std::byte> TensorView::scale_bytes() const {
  if (scales_.stored == nullptr) return {};
  const int64_t first = scales_.first_row / scales_.block;
  const int64_t last = (scales_.first_row + rows_ - 1) / scales_.block;
  const int64_t row_bytes = scales_.columns * DTypeBits(scales_.stored->info.dtype) / 8;
  return {scales_.stored->file->data() + scales_.begin + first * row_bytes,
          static_cast<size_t>((last - first + 1) * row_bytes)};
}

void TensorView::ReadFloat8Row(int64_t row, std::span<float> output) const {
  static const std::array<float, 256> kTable = MakeFloat8Table();
  const DType scale_type = scales_.stored->info.dtype;
  const int64_t scale_row = (scales_.first_row + row) / scales_.block;
  const std::byte* scale = scales_.stored->file->data() + scales_.begin +
                           scale_row * scales_.columns * DTypeBits(scale_type) / 8;
  const std::byte* source = stored_->file->data() + begin_ + row * columns_;
  for (int64_t begin = 0; begin < columns_; begin += scales_.block) {
    float factor = 0;
    WidenToFloat(scale_type, scale, std::span(&factor, 1));
    scale += DTypeBits(scale_type) / 8;
    const int64_t end = std::min(columns_, begin + scales_.block);
    for (int64_t c = begin; c < end; ++c) {
      const float value = kTable[static_cast<uint8_t>(source[c])] * factor;
      output[static_cast<size_t>(c)] = kernels::ToFloat(kernels::ToBf16(value));
    }
  }
}

void TensorView::Read(int64_t first_row, int64_t num_rows, std::span<float> output) const {
  CONCLAVE_CHECK(first_row >= 0 && num_rows >= 0 && first_row + num_rows <= rows_);
  CONCLAVE_CHECK(static_cast<int64_t>(output.size()) == num_rows * columns_);
  if (integers_) {
    integers_->ReadFloats(first_row, num_rows, output);
    return;
  }
  if (scales_.stored == nullptr) {
    const int64_t row_bytes = columns_ * DTypeBits(dtype()) / 8;
    WidenToFloat(dtype(), stored_->file->data() + begin_ + first_row * row_bytes, output);
    return;
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    ReadFloat8Row(first_row + r,
                  output.subspan(static_cast<size_t>(r * columns_), static_cast<size_t>(columns_)));
  }
}

}  // namespace conclave::weights
