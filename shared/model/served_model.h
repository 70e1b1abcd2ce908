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
#include "shared/weights/checkpoint.h"

namespace conclave::model {

struct ServedModel {
  std::shared_ptr<const weights::Checkpoint> checkpoint;
  kernels::NumericsClass numerics = kernels::NumericsClass::kBf16;
  placement::ModelIdentity identity;
};

// Opens the checkpoint that `common` names, logs its warnings and takes its fingerprint. Errors are
// the checkpoint's, and INVALID_ARGUMENT for no model or an unknown numerics class.
absl::StatusOr<ServedModel> OpenServedModel(const CommonOptions& common);

// The numerics class that the setting `numerics` names; "auto" is bf16. INVALID_ARGUMENT for
// another.
absl::StatusOr<kernels::NumericsClass> ParseNumerics(const std::string& name);

// The part of a model's identity that follows from its config: layers, experts and what one takes.
// Without names and fingerprint.
placement::ModelIdentity ShapeOf(const weights::ModelConfig& config,
                                 kernels::NumericsClass numerics);

// The level that a setting names, such as "engine.cpu_level"; "auto" is the best one.
// INVALID_ARGUMENT for an unknown name, FAILED_PRECONDITION when this processor does not have it.
absl::StatusOr<kernels::CpuLevel> ChooseCpuLevel(std::string_view setting, const std::string& name);

}  // namespace conclave::model
