// The formats in which a checkpoint is computed with that has matrices of int4 in it.
#pragma once

#include <optional>

#include "kernels/matrix.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/weight_formats.h"

namespace conclave::weights {

// What matrices stored as int4 leave of a class: they stay what they are in int8 and int4, and in
// f32 and bf16 are dequantised. nullopt: they stay what they are, and the others are bf16. Of a
// checkpoint without such matrices the class's own formats; nullopt is bf16.
WeightFormats FormatsOf(const Checkpoint& checkpoint,
                        std::optional<kernels::NumericsClass> numerics);

}  // namespace conclave::weights
