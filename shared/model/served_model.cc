#include "shared/model/served_model.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "shared/base/log.h"
#include "shared/base/status_macros.h"
#include "shared/weights/expert_weights.h"

namespace conclave::model {
namespace {

placement::ModelIdentity IdentityOf(const weights::Checkpoint& checkpoint,
                                    const CommonOptions& common, kernels::NumericsClass numerics) {
  placement::ModelIdentity identity = ShapeOf(checkpoint.config(), numerics);
  identity.fingerprint = checkpoint.Fingerprint(identity.numerics_class);
  identity.served_name =
      common.served_name.empty() ? checkpoint.dir().filename().string() : common.served_name;
  return identity;
}

}  // namespace

absl::StatusOr<kernels::NumericsClass> ParseNumerics(const std::string& name) {
  if (name == "auto") return kernels::NumericsClass::kBf16;
  if (const auto numerics = kernels::ParseNumericsClass(name)) return *numerics;
  return absl::InvalidArgumentError(
      absl::StrCat("numerics is \"", name, "\"; it may be auto, f32, bf16, int8 or int4"));
}

placement::ModelIdentity ShapeOf(const weights::ModelConfig& config,
                                 kernels::NumericsClass numerics) {
  placement::ModelIdentity identity;
  identity.numerics_class = std::string(kernels::NumericsClassName(numerics));
  identity.num_layers = config.num_layers;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    if (config.IsMoe(layer)) identity.moe_layers.push_back(layer);
  }
  identity.num_experts = config.moe.num_experts;
  identity.expert_bytes = static_cast<int64_t>(weights::ExpertBytes(config, numerics));
  return identity;
}

absl::StatusOr<ServedModel> OpenServedModel(const CommonOptions& common) {
  if (common.model.empty()) {
    return absl::InvalidArgumentError(
        "model is not set: pass --model with the checkpoint's folder or org/name");
  }
  ServedModel model;
  ASSIGN_OR_RETURN(model.numerics, ParseNumerics(common.numerics));
  ASSIGN_OR_RETURN(const std::filesystem::path dir, weights::ResolveModelDir(common.model));
  ASSIGN_OR_RETURN(model.checkpoint,
                   weights::Checkpoint::Open(dir, {.config = {.strict = common.strict_config}}));
  for (const std::string& warning : model.checkpoint->warnings()) LogWarning(warning);
  model.identity = IdentityOf(*model.checkpoint, common, model.numerics);
  return model;
}

absl::StatusOr<kernels::CpuLevel> ChooseCpuLevel(std::string_view setting,
                                                 const std::string& name) {
  if (name == "auto") return kernels::BestCpuLevel();
  const auto level = kernels::ParseCpuLevel(name);
  if (!level.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(setting), " is \"", name,
                     "\"; it may be auto, reference, avx512, avx512_vnni or avx512_bf16"));
  }
  if (!kernels::CpuSupports(*level)) {
    return absl::FailedPreconditionError(absl::StrCat(
        std::string(setting), " is ", name, ", which this processor does not have; use auto"));
  }
  return *level;
}

}  // namespace conclave::model
