#include "shared/weights/expert_weights.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"
#include "shared/weights/packed_model.h"
#include "shared/weights/tensor_table.h"

namespace conclave::weights {

size_t ExpertBytes(const ModelConfig& config, const WeightFormats& formats) {
  return 2 * kernels::PackedBytes(formats.experts, config.moe.intermediate, config.hidden) +
         kernels::PackedBytes(formats.experts, config.hidden, config.moe.intermediate);
}

kernels::FfnWeights AddExpert(const ModelConfig& config, const WeightFormats& formats, ExpertId id,
                              MatrixSource& source) {
  const auto add = [&](std::string_view projection, int64_t outputs, int64_t inputs) {
    return source.Add(formats.experts, ExpertTensorName(id.layer, id.expert, projection), 0,
                      outputs, inputs);
  };
  kernels::FfnWeights ffn;
  ffn.gate = add("gate_proj", config.moe.intermediate, config.hidden);
  ffn.up = add("up_proj", config.moe.intermediate, config.hidden);
  ffn.down = add("down_proj", config.hidden, config.moe.intermediate);
  return ffn;
}

absl::StatusOr<std::shared_ptr<const ExpertWeights>> LoadExpert(const StoredModel& model,
                                                                const WeightFormats& formats,
                                                                ExpertId id,
                                                                kernels::ThreadPool* pool) {
  const ModelConfig& config = model.config();
  const bool exists = id.layer >= 0 && id.layer < config.num_layers && config.IsMoe(id.layer) &&
                      id.expert >= 0 && id.expert < config.moe.num_experts;
  if (!exists) {
    return absl::NotFoundError(absl::StrCat("model ", model.path().string(), " has no expert ",
                                            id.expert, " in layer ", id.layer));
  }
  RETURN_IF_ERROR(model.CheckUnchanged());
  auto expert = std::make_shared<ExpertWeights>();
  expert->id = id;
  expert->bytes = ExpertBytes(config, formats);
  expert->buffer = PackedBuffer(BufferBytes(model, expert->bytes));
  const auto source = MakeMatrixSource(model, expert->buffer, pool);
  expert->ffn = AddExpert(config, formats, id, *source);
  RETURN_IF_ERROR(source->Run());
  expert->error = source->sampled_errors().Of(TensorKind::kExperts);
  if (model.packed() != nullptr) expert->mapped = model.packed()->shared_from_this();
  return expert;
}

}  // namespace conclave::weights
