#include "shared/weights/integer_view.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "shared/base/check.h"
#include "shared/base/status_macros.h"
#include "shared/weights/dtype.h"

namespace conclave::weights {
namespace {

constexpr int64_t kPerWord = 8;      // values of four bits
constexpr int32_t kMiddle = 8;       // the zero point of a matrix without zero points
constexpr int64_t kMostGroup = 128;  // of the kernels
// AWQ: where of a word, in fours of bits, output j of eight lies.
constexpr int64_t kAwqPlaces[] = {0, 4, 1, 5, 2, 6, 3, 7};

constexpr float kMostSteps = 15;  // of an integer from its zero point

// Bits of the largest scales with which every weight is finite.
constexpr uint16_t kMostF16 = 0x7bff;
constexpr uint16_t kMostBf16 = std::bit_cast<uint32_t>(FLT_MAX / kMostSteps) >> 16;

constexpr char kDownload[] = "download the checkpoint again";
constexpr char kWithout[] = "use a checkpoint that was quantised without, or the original one";

int64_t Words(int64_t values) { return (values + kPerWord - 1) / kPerWord; }

template <typename T>
T At(const StoredTensor& tensor, int64_t index) {
  T value;
  std::memcpy(&value, tensor.data() + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

int32_t Four(uint32_t word, int64_t place) {
  return static_cast<int32_t>(word >> (4 * place)) & 15;
}

// The eight values of a word, a byte each, the first in the lowest.
uint64_t Spread(uint32_t word) {
  uint64_t bits = word;
  bits = (bits | bits << 16) & 0x0000ffff0000ffffu;
  bits = (bits | bits << 8) & 0x00ff00ff00ff00ffu;
  return (bits | bits << 4) & 0x0f0f0f0f0f0f0f0fu;
}

// The part `name` of a matrix, of one of `types` and of shape `wanted`.
absl::StatusOr<const StoredTensor*> Part(const ShardSet& shards, const std::string& name,
                                         const std::string& of, std::vector<DType> types,
                                         const std::vector<int64_t>& wanted,
                                         std::set<std::string>* used) {
  const StoredTensor* found = shards.Find(name);
  if (found == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        shards.Find(of)->file->path().string(), ": tensor ", of, " is there, but tensor ", name,
        " is missing, which its config.json asks for; ", kDownload));
  }
  if (std::find(types.begin(), types.end(), found->info.dtype) == types.end() ||
      found->info.shape != wanted) {
    std::string types_text;
    for (const DType type : types) {
      absl::StrAppend(&types_text, types_text.empty() ? "" : " or ", std::string(DTypeName(type)));
    }
    return absl::InvalidArgumentError(
        absl::StrCat(Described(*found), ", wanted ", types_text, " ", ShapeText(wanted),
                     "; use config and weights of one revision, quantised to 4 bits"));
  }
  used->insert(name);
  return found;
}

}  // namespace

std::string IntegerView::IntegersName(IntegerLayout layout, const std::string& name) {
  const std::string base(absl::StripSuffix(name, ".weight"));
  return base + (layout == IntegerLayout::kCompressedTensors ? ".weight_packed" : ".qweight");
}

absl::StatusOr<IntegerView> IntegerView::Make(const std::string& name, int64_t rows,
                                              int64_t columns, const ShardSet& shards,
                                              const IntegerStorage& storage,
                                              std::set<std::string>* used) {
  IntegerView view;
  view.storage_ = storage;
  view.rows_ = rows;
  view.columns_ = columns;
  RETURN_IF_ERROR(view.FindParts(std::string(absl::StripSuffix(name, ".weight")), shards, used));
  return view;
}

absl::Status IntegerView::FindParts(const std::string& base, const ShardSet& shards,
                                    std::set<std::string>* used) {
  const std::string integers = IntegersName(storage_.layout, base);
  const auto part = [&](const char* suffix, std::vector<DType> types, std::vector<int64_t> shape) {
    return Part(shards, base + suffix, integers, std::move(types), shape, used);
  };
  const std::vector<DType> words = {DType::kI32}, scales = {DType::kF16, DType::kBf16};
  const int64_t groups = stored_groups();
  const char* order = ".g_idx";
  if (compressed()) {
    ASSIGN_OR_RETURN(integers_, part(".weight_packed", words, {rows_, Words(columns_)}));
    ASSIGN_OR_RETURN(scales_, part(".weight_scale", scales, {rows_, groups}));
    if (storage_.zeros) {
      ASSIGN_OR_RETURN(zeros_, part(".weight_zero_point", words, {Words(rows_), groups}));
    }
    ASSIGN_OR_RETURN(shape_, part(".weight_shape", {DType::kI64, DType::kI32}, {2}));
    order = ".weight_g_idx";
  } else {
    const std::vector<int64_t> shape = awq() ? std::vector<int64_t>{columns_, Words(rows_)}
                                             : std::vector<int64_t>{Words(columns_), rows_};
    ASSIGN_OR_RETURN(integers_, part(".qweight", words, shape));
    ASSIGN_OR_RETURN(zeros_, part(".qzeros", words, {groups, Words(rows_)}));
    ASSIGN_OR_RETURN(scales_, part(".scales", scales, {groups, rows_}));
  }
  if (!awq() && shards.Find(base + order) != nullptr) {
    ASSIGN_OR_RETURN(order_, part(order, words, {columns_}));
  }
  return absl::OkStatus();
}

kernels::WeightFormat IntegerView::format() const {
  const int64_t group = std::min(stored_group(), kMostGroup);
  return {kernels::WeightType::kInt4,
          static_cast<int32_t>(storage_.group == 0 ? kMostGroup : group), storage_.zeros};
}

std::vector<const StoredTensor*> IntegerView::parts() const {
  std::vector<const StoredTensor*> parts = {integers_, scales_};
  if (storage_.zeros) parts.push_back(zeros_);
  return parts;
}

int32_t IntegerView::StoredZero(int64_t row, int64_t stored_group) const {
  const int64_t word = compressed() ? row / kPerWord * stored_groups() + stored_group
                                    : stored_group * Words(rows_) + row / kPerWord;
  const int64_t place = row % kPerWord;
  return Four(At<uint32_t>(*zeros_, word), awq() ? kAwqPlaces[place] : place);
}

float IntegerView::Scale(int64_t row, int64_t stored_group) const {
  const int64_t index =
      compressed() ? row * stored_groups() + stored_group : stored_group * rows_ + row;
  const auto bits = At<uint16_t>(*scales_, index);
  float scale = 0;
  WidenToFloat(scales_->info.dtype, reinterpret_cast<const std::byte*>(&bits),
               std::span(&scale, 1));
  return scale;
}

// The integers in the order of rows, whatever that of words.
void IntegerView::ReadRowsOfWords(int64_t first_row, int64_t num_rows, uint8_t* output) const {
  if (awq()) {
    ReadAwqRows(first_row, num_rows, output);
    return;
  }
  for (int64_t word = 0; word < Words(columns_); ++word) {
    const int64_t begin = word * kPerWord;
    const auto count = static_cast<size_t>(std::min(kPerWord, columns_ - begin));
    for (int64_t r = 0; r < num_rows; ++r) {
      const int64_t row = first_row + r;
      const int64_t index = compressed() ? row * Words(columns_) + word : word * rows_ + row;
      const uint64_t eight = Spread(At<uint32_t>(*integers_, index));
      std::memcpy(output + r * columns_ + begin, &eight, count);
    }
  }
}

// A word has eight rows of one input: those of some inputs are turned before they are written.
void IntegerView::ReadAwqRows(int64_t first_row, int64_t num_rows, uint8_t* output) const {
  constexpr int64_t kInputs = 64;
  uint8_t turned[kPerWord][kInputs];
  const int64_t end_row = first_row + num_rows;
  for (int64_t begin = 0; begin < columns_; begin += kInputs) {
    const int64_t count = std::min(kInputs, columns_ - begin);
    for (int64_t word = first_row / kPerWord; word * kPerWord < end_row; ++word) {
      for (int64_t k = 0; k < count; ++k) {
        const auto bits = At<uint32_t>(*integers_, (begin + k) * Words(rows_) + word);
        for (int64_t i = 0; i < kPerWord; ++i) {
          turned[i][k] = static_cast<uint8_t>(Four(bits, kAwqPlaces[i]));
        }
      }
      const int64_t row = word * kPerWord;
      for (int64_t i = std::max<int64_t>(0, first_row - row); i < kPerWord && row + i < end_row;
           ++i) {
        std::memcpy(output + (row + i - first_row) * columns_ + begin, turned[i],
                    static_cast<size_t>(count));
      }
    }
  }
}

void IntegerView::ReadIntegers(int64_t first_row, int64_t num_rows, Int4Values& output) const {
  CONCLAVE_CHECK(first_row >= 0 && num_rows >= 0 && first_row + num_rows <= rows_);
  const int64_t group = format().group;
  const int64_t groups = (columns_ + group - 1) / group;
  output.integers.resize(static_cast<size_t>(num_rows * columns_));
  output.scales.resize(static_cast<size_t>(num_rows * groups));
  output.zeros.resize(storage_.zeros ? output.scales.size() : 0);
  ReadRowsOfWords(first_row, num_rows, output.integers.data());
  const int32_t stored_less = storage_.layout == IntegerLayout::kGptq ? 1 : 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t stored = g * group / stored_group();
      const auto at = static_cast<size_t>(r * groups + g);
      output.scales[at] = Scale(first_row + r, stored);
      if (!storage_.zeros) continue;
      output.zeros[at] =
          static_cast<uint8_t>((StoredZero(first_row + r, stored) + stored_less) & 15);
    }
  }
}

void IntegerView::ReadFloats(int64_t first_row, int64_t num_rows, std::span<float> output) const {
  CONCLAVE_CHECK(static_cast<int64_t>(output.size()) == num_rows * columns_);
  Int4Values values;
  ReadIntegers(first_row, num_rows, values);
  const int64_t group = format().group;
  const int64_t groups = (columns_ + group - 1) / group;
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t k = 0; k < columns_; ++k) {
      const auto at = static_cast<size_t>(r * groups + k / group);
      const int32_t zero = storage_.zeros ? values.zeros[at] : kMiddle;
      const auto i = static_cast<size_t>(r * columns_ + k);
      output[i] = values.scales[at] * static_cast<float>(values.integers[i] - zero);
    }
  }
}

absl::Status IntegerView::Check() const {
  RETURN_IF_ERROR(CheckOrder());
  RETURN_IF_ERROR(CheckScales());
  RETURN_IF_ERROR(CheckZeros());
  return CheckShape();
}

absl::Status IntegerView::CheckOrder() const {
  if (order_ == nullptr) return absl::OkStatus();
  for (int64_t k = 0; k < columns_; ++k) {
    const auto group = At<int32_t>(*order_, k);
    if (group == k / stored_group()) continue;
    return absl::UnimplementedError(
        absl::StrCat(Described(*order_), " and says that input ", k, " is of group ", group,
                     ", wanted ", k / stored_group(),
                     ": its inputs are not in their order (desc_act, actorder), which is not "
                     "supported; ",
                     kWithout, " (docs/models.md)"));
  }
  return absl::OkStatus();
}

absl::Status IntegerView::CheckScales() const {
  const uint16_t most = scales_->info.dtype == DType::kF16 ? kMostF16 : kMostBf16;
  const auto magnitude = [this](int64_t i) { return At<uint16_t>(*scales_, i) & 0x7fff; };
  const int64_t count = rows_ * stored_groups();
  int32_t largest = 0;  // without a way out of the loop, so that it is vectorised
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, magnitude(i));
  if (largest <= most) return absl::OkStatus();
  int64_t at = 0;
  while (magnitude(at) <= most) ++at;
  const int64_t row = compressed() ? at / stored_groups() : at % rows_;
  const int64_t group = compressed() ? at % stored_groups() : at / rows_;
  return absl::InvalidArgumentError(absl::StrCat(
      Described(*scales_), " and has the scale ", Scale(row, group), " in row ", row, ", group ",
      group, ", wanted one that is finite, and 15 times of it too; ", kDownload));
}

absl::Status IntegerView::CheckZeros() const {
  const bool less_1 = storage_.layout == IntegerLayout::kGptq;
  // Zero points that are stored as they are may be any of 0 to 15.
  if (zeros_ == nullptr || (storage_.zeros && !less_1)) return absl::OkStatus();
  for (int64_t group = 0; group < stored_groups(); ++group) {
    for (int64_t row = 0; row < rows_; ++row) {
      const int32_t stored = StoredZero(row, group);
      if (!storage_.zeros && stored + less_1 != kMiddle) {
        return absl::InvalidArgumentError(
            absl::StrCat(Described(*zeros_), " and has the zero point ", stored + less_1,
                         " in row ", row, ", group ", group,
                         ", but \"sym\" is true in config.json, or missing, which is 8 everywhere; "
                         "use config and weights of one revision"));
      }
      // 16 to those who add 1, 0 to those who keep four bits.
      if (less_1 && stored == 15) {
        return absl::InvalidArgumentError(absl::StrCat(
            Described(*zeros_), " and has 15 in row ", row, ", group ", group,
            ", a zero point that programs do not agree on; wanted 0 to 14: use a checkpoint with "
            "\"checkpoint_format\": \"gptq_v2\", or the original one"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status IntegerView::CheckShape() const {
  if (shape_ == nullptr) return absl::OkStatus();
  const auto at = [this](int64_t i) {
    return shape_->info.dtype == DType::kI64 ? At<int64_t>(*shape_, i) : At<int32_t>(*shape_, i);
  };
  if (at(0) == rows_ && at(1) == columns_) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Described(*shape_), " and says ", ShapeText({at(0), at(1)}), ", wanted ",
                   ShapeText({rows_, columns_}), "; use config and weights of one revision"));
}

}  // namespace conclave::weights
