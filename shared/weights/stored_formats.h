// The formats in which a checkpoint is computed with that has matrices of int4 in it.
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "kernels/matrix.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/weight_formats.h"

namespace conclave::weights {

// What matrices stored as int4 leave of a class. f32 and bf16: all are dequantised. int8: routed
// experts stay what they are; int4: all do, in their groups, and the rest is quantised to these.
// nullopt: experts stay what they are, else are bf16; if attention or dense networks are stored as
// int4 all but experts is int4, unless the LM head is too, which has no integers to become: then,
// and in other checkpoints, bf16. CheckFormats says whether the result can be made. Of a checkpoint
// without such matrices the class's own formats; nullopt is bf16.
WeightFormats FormatsOf(const Checkpoint& checkpoint,
                        std::optional<kernels::NumericsClass> numerics);

// Whether all matrices of the checkpoint can be made in these formats: FormatToMake's
// INVALID_ARGUMENT of the first that cannot. Looks at no weights.
absl::Status CheckFormats(const Checkpoint& checkpoint, const WeightFormats& formats);

}  // namespace conclave::weights
