#include "shared/weights/imported_format.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "shared/weights/quantization_error.h"

namespace conclave::weights {
namespace {

using kernels::WeightFormat;

std::string LabelOf(WeightFormat format) {
  return absl::StrCat(std::string(kernels::WeightTypeName(format.type)), ":", format.group);
}

}  // namespace

absl::StatusOr<WeightFormat> FormatToMake(const TensorReader& tensors, std::string_view name,
                                          WeightFormat asked) {
  if (!asked.integers()) return asked;
  const std::optional<WeightFormat> stored = tensors.IntegersOf(name);
  if (!stored) return asked;
  if (asked.type == stored->type && asked.group == stored->group) return *stored;
  const bool head = TensorKindOf(name, /*is_table=*/false) == TensorKind::kLmHead;
  const std::string advice =
      head ? absl::StrCat(
                 "LM heads are never int4, so choose bf16 for all but the routed experts "
                 "(--numerics auto; of conclave pack, --format bf16 --experts ",
                 LabelOf(*stored), ")")
           : absl::StrCat("choose ", LabelOf(*stored), " for matrices of its kind");
  return absl::InvalidArgumentError(absl::StrCat(
      tensors.FileOf(name), ": matrix ", std::string(name), " is stored as ", LabelOf(*stored),
      ", wanted ", LabelOf(asked), ", which would round its weights a second time; ", advice,
      ", or bf16 for all (docs/models.md, \"Weights of 4 bits\")"));
}

}  // namespace conclave::weights
