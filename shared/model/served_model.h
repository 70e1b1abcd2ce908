// The model of an engine or an expert worker, as the settings name it: opened, checked and known by
// its fingerprint; and the instruction level that its kernels run at.
//
// Called once, on the main thread, while the process starts. Links kernels: gateway and controller
// do without.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/context.h"
#include "kernels/matrix.h"
#include "shared/options/options.h"
#include "shared/placement/topology.h"
#include "shared/weights/stored_model.h"
#include "shared/weights/weight_formats.h"

namespace conclave::model {

struct ServedModel {
  std::shared_ptr<const weights::StoredModel> stored;
  weights::WeightFormats formats;
  placement::ModelIdentity identity;
};

// Opens the checkpoint or packed file that `common` names, logs its warnings and takes its
// fingerprint. Errors are those of weights::OpenModel, and INVALID_ARGUMENT for no model, an
// unknown numerics class, or another one than a packed file's.
absl::StatusOr<ServedModel> OpenServedModel(const CommonOptions& common);

// The numerics class that the setting `numerics` names; "auto" is bf16, where the stored model has
// no formats of its own. INVALID_ARGUMENT for another.
absl::StatusOr<kernels::NumericsClass> ParseNumerics(const std::string& name);

// The formats in which a stored model is computed with under the setting `numerics`: a packed
// file's own; of a checkpoint that stores matrices as int4, those that keep them
// (weights::FormatsOf). INVALID_ARGUMENT for a setting that names others than a packed file has, or
// that can not be made of a checkpoint (weights::CheckFormats).
absl::StatusOr<weights::WeightFormats> ChooseFormats(const weights::StoredModel& stored,
                                                     const std::string& numerics);

// The part of a model's identity that follows from its config: layers, experts and what one takes.
// Without names and fingerprint.
placement::ModelIdentity ShapeOf(const weights::ModelConfig& config,
                                 const weights::WeightFormats& formats);

// The level that a setting names, such as "engine.cpu_level"; "auto" is the best one.
// INVALID_ARGUMENT for an unknown name, FAILED_PRECONDITION when this processor does not have it.
absl::StatusOr<kernels::CpuLevel> ChooseCpuLevel(std::string_view setting, const std::string& name);

}  // namespace conclave::model
