#include "shared/weights/stored_formats.h"

#include "shared/base/status_macros.h"
#include "shared/weights/engine_weights.h"
#include "shared/weights/expert_weights.h"
#include "shared/weights/imported_format.h"
#include "shared/weights/matrix_source.h"
#include "shared/weights/quantization_error.h"
#include "shared/weights/tensor_table.h"

namespace conclave::weights {
namespace {

using kernels::NumericsClass;
using kernels::PackedMatrix;
using kernels::WeightFormat;

// Makes nothing; Run says whether all that it was asked for can be made.
class Asked : public MatrixSource {
 public:
  explicit Asked(const TensorReader& tensors) : tensors_(tensors) {}

  PackedMatrix Add(WeightFormat format, std::string_view name, int64_t, int64_t, int64_t) override {
    status_.Update(FormatToMake(tensors_, name, format).status());
    return {};
  }
  PackedMatrix AddTransposed(WeightFormat, std::string_view, int64_t, int64_t, int64_t) override {
    return {};
  }
  std::span<const std::byte> AddRowMajor(WeightFormat, std::string_view, int64_t, int64_t,
                                         int64_t) override {
    return {};
  }
  absl::Status Run() override { return status_; }
  std::vector<float> LoadVector(std::string_view, int64_t) override { return {}; }

 private:
  const TensorReader& tensors_;
  absl::Status status_;
};

// What is stored as int4.
struct Stored {
  std::optional<WeightFormat> dense, experts, head;
};

Stored StoredIn(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  Stored stored;
  for (const TensorSpec& spec : TensorTable(config)) {
    const auto kind = spec.shape.size() == 2 ? TensorKindOf(spec.name, false) : std::nullopt;
    if (!kind) continue;
    // The embedding alone is a table, which is always made of floats.
    if (spec.name == kEmbeddingName && !config.tied_embeddings) continue;
    std::optional<WeightFormat> format = checkpoint.IntegersOf(spec.name);
    if (!format) continue;
    format->zeros = false;  // each matrix has its own
    (kind == TensorKind::kExperts  ? stored.experts
     : kind == TensorKind::kLmHead ? stored.head
                                   : stored.dense) = format;
  }
  return stored;
}

}  // namespace

WeightFormats FormatsOf(const Checkpoint& checkpoint, std::optional<NumericsClass> numerics) {
  const auto [dense, experts, head] = StoredIn(checkpoint);
  if (!numerics) {
    // A head beside int4 is int8, which one that is stored as int4 does not become.
    const bool keep_dense = dense && !head;
    WeightFormats formats(keep_dense ? NumericsClass::kInt4 : NumericsClass::kBf16);
    formats.dense = keep_dense ? *dense : WeightFormat::kBf16;
    formats.experts = experts.value_or(WeightFormat::kBf16);
    return formats;
  }
  WeightFormats formats(*numerics);
  if (*numerics == NumericsClass::kInt8 && experts) formats.experts = *experts;
  if (*numerics == NumericsClass::kInt4 && (dense || experts)) {
    formats.dense = formats.experts = dense ? *dense : *experts;
  }
  return formats;
}

absl::Status CheckFormats(const Checkpoint& checkpoint, const WeightFormats& formats) {
  const ModelConfig& config = checkpoint.config();
  Asked asked(checkpoint);
  EngineWeights nothing;
  RETURN_IF_ERROR(WalkEngine(config, formats, asked, nothing, nullptr));
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    if (!config.IsMoe(layer)) continue;
    for (int32_t expert = 0; expert < config.moe.num_experts; ++expert) {
      AddExpert(config, formats, {layer, expert}, asked);
    }
    RETURN_IF_ERROR(asked.Run());
  }
  return absl::OkStatus();
}

}  // namespace conclave::weights
