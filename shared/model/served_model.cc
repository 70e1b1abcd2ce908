#include "shared/model/served_model.h"

#include <filesystem>
#include <optional>

#include "absl/strings/str_cat.h"
#include "shared/base/log.h"
#include "shared/base/status_macros.h"
#include "shared/weights/expert_weights.h"
#include "shared/weights/model_files.h"
#include "shared/weights/packed_model.h"
#include "shared/weights/stored_formats.h"

namespace conclave::model {
namespace {

placement::ModelIdentity IdentityOf(const ServedModel& model, const CommonOptions& common) {
  placement::ModelIdentity identity = ShapeOf(model.stored->config(), model.formats);
  identity.fingerprint = model.stored->Fingerprint(identity.numerics_class);
  identity.served_name = common.served_name.empty()
                             ? weights::DefaultServedName(model.stored->path())
                             : common.served_name;
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
                                 const weights::WeightFormats& formats) {
  placement::ModelIdentity identity;
  identity.numerics_class = formats.Label();
  identity.num_layers = config.num_layers;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    if (config.IsMoe(layer)) identity.moe_layers.push_back(layer);
  }
  identity.num_experts = config.moe.num_experts;
  identity.expert_bytes = static_cast<int64_t>(weights::ExpertBytes(config, formats));
  return identity;
}

absl::StatusOr<ServedModel> OpenServedModel(const CommonOptions& common) {
  if (common.model.empty()) {
    return absl::InvalidArgumentError(
        "model is not set: pass --model with the checkpoint's folder, a packed file or org/name");
  }
  ServedModel model;
  ASSIGN_OR_RETURN(const std::filesystem::path path, weights::ResolveModel(common.model));
  ASSIGN_OR_RETURN(model.stored, weights::OpenModel(path, {.strict = common.strict_config}));
  for (const std::string& warning : model.stored->warnings()) LogWarning(warning);
  ASSIGN_OR_RETURN(model.formats, ChooseFormats(*model.stored, common.numerics));
  model.identity = IdentityOf(model, common);
  return model;
}

absl::StatusOr<weights::WeightFormats> ChooseFormats(const weights::StoredModel& stored,
                                                     const std::string& numerics) {
  ASSIGN_OR_RETURN(const kernels::NumericsClass chosen, ParseNumerics(numerics));
  const weights::PackedModel* packed = stored.packed();
  if (packed == nullptr) {
    const weights::WeightFormats formats = weights::FormatsOf(
        *stored.checkpoint(), numerics == "auto" ? std::nullopt : std::optional(chosen));
    RETURN_IF_ERROR(weights::CheckFormats(*stored.checkpoint(), formats));
    return formats;
  }
  const auto formats = weights::ParseWeightFormats(packed->formats());
  if (!formats || formats->Label() != packed->formats()) {
    return absl::UnimplementedError(absl::StrCat(
        stored.path().string(), " is packed as \"", packed->formats(), "\"; this version knows ",
        std::string(weights::kWeightFormatsText), "; use a newer conclave, or pack again"));
  }
  if (numerics != "auto" && numerics != packed->formats()) {
    return absl::InvalidArgumentError(
        absl::StrCat("numerics is ", numerics, " and ", stored.path().string(), " is packed as ",
                     packed->formats(),
                     "; leave numerics at auto, which takes a packed file as it is, or pack the "
                     "checkpoint in other formats"));
  }
  return *formats;
}

absl::StatusOr<kernels::CpuLevel> ChooseCpuLevel(std::string_view setting,
                                                 const std::string& name) {
  if (name == "auto") return kernels::BestCpuLevel();
  const auto level = kernels::ParseCpuLevel(name);
  if (!level.has_value()) {
    std::string names = "auto";
    for (const kernels::CpuLevel known : kernels::kCpuLevels) {
      absl::StrAppend(&names, known == std::end(kernels::kCpuLevels)[-1] ? " or " : ", ",
                      std::string(kernels::CpuLevelName(known)));
    }
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(setting), " is \"", name, "\"; it may be ", names));
  }
  if (!kernels::CpuSupports(*level)) {
    return absl::FailedPreconditionError(absl::StrCat(
        std::string(setting), " is ", name, ", which this processor does not have; use auto"));
  }
  return *level;
}

}  // namespace conclave::model
