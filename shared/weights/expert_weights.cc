#include "shared/weights/expert_weights.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"
#include "shared/weights/matrix_loader.h"
#include "shared/weights/tensor_table.h"

namespace conclave::weights {

size_t ExpertBytes(const ModelConfig& config, kernels::NumericsClass numerics) {
  const kernels::WeightFormat format = kernels::WeightFormatOf(numerics);
  return 2 * kernels::PackedBytes(format, config.moe.intermediate, config.hidden) +
         kernels::PackedBytes(format, config.hidden, config.moe.intermediate);
}

absl::StatusOr<std::shared_ptr<const ExpertWeights>> LoadExpert(const Checkpoint& checkpoint,
                                                                kernels::NumericsClass numerics,
                                                                ExpertId id,
                                                                kernels::ThreadPool* pool) {
  const ModelConfig& config = checkpoint.config();
  const bool exists = id.layer >= 0 && id.layer < config.num_layers && config.IsMoe(id.layer) &&
                      id.expert >= 0 && id.expert < config.moe.num_experts;
  if (!exists) {
    return absl::NotFoundError(absl::StrCat("model ", checkpoint.dir().string(), " has no expert ",
                                            id.expert, " in layer ", id.layer));
  }
  RETURN_IF_ERROR(checkpoint.CheckUnchanged());
  const kernels::WeightFormat format = kernels::WeightFormatOf(numerics);
  const int64_t hidden = config.hidden;
  const int64_t intermediate = config.moe.intermediate;

  auto expert = std::make_shared<ExpertWeights>();
  expert->id = id;
  expert->buffer = PackedBuffer(ExpertBytes(config, numerics));
  MatrixLoader loader(checkpoint, expert->buffer, pool);
  const auto add = [&](std::string_view projection, int64_t outputs, int64_t inputs) {
    return loader.Add(format, ExpertTensorName(id.layer, id.expert, projection), 0, outputs,
                      inputs);
  };
  expert->ffn.gate = add("gate_proj", intermediate, hidden);
  expert->ffn.up = add("up_proj", intermediate, hidden);
  expert->ffn.down = add("down_proj", hidden, intermediate);
  RETURN_IF_ERROR(loader.Run());
  return expert;
}

}  // namespace conclave::weights
