#include "shared/weights/weight_formats.h"

#include "absl/strings/str_cat.h"

namespace conclave::weights {
namespace {

using kernels::WeightFormat;
using kernels::WeightType;

constexpr int32_t kUsualGroup = WeightFormat::kInt8.group;

std::string FormatLabel(WeightFormat format) {
  const std::string type(kernels::WeightTypeName(format.type));
  if (!format.integers() || format.group == kUsualGroup) return type;
  return absl::StrCat(type, ":", format.group);
}

std::optional<WeightFormat> ParseFormat(std::string_view label) {
  const size_t colon = label.find(':');
  const auto numerics = kernels::ParseNumericsClass(label.substr(0, colon));
  if (!numerics) return std::nullopt;
  WeightFormat format = kernels::WeightFormatOf(*numerics);
  if (colon == std::string_view::npos) return format;
  const std::string_view group = label.substr(colon + 1);
  if (!format.integers()) return std::nullopt;
  for (const int32_t allowed : {32, 64, 128}) {
    if (group == absl::StrCat(allowed)) {
      format.group = allowed;
      return format;
    }
  }
  return std::nullopt;
}

}  // namespace

std::string WeightFormats::Label() const {
  if (experts == dense) return FormatLabel(dense);
  return absl::StrCat(FormatLabel(dense), "+", FormatLabel(experts));
}

std::optional<WeightFormats> ParseWeightFormats(std::string_view label) {
  const size_t plus = label.find('+');
  const auto dense = ParseFormat(label.substr(0, plus));
  if (!dense) return std::nullopt;
  const auto experts = plus == std::string_view::npos ? dense : ParseFormat(label.substr(plus + 1));
  if (!experts) return std::nullopt;
  if ((dense->type == WeightType::kF32) != (experts->type == WeightType::kF32)) return std::nullopt;
  WeightFormats formats(*kernels::ParseNumericsClass(kernels::WeightTypeName(dense->type)));
  formats.dense = *dense;
  formats.experts = *experts;
  return formats;
}

}  // namespace conclave::weights
