// How the weights of a model are stored and computed with: a numerics class, or a mixture of two.
//
// Values. Decided once at start.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "kernels/matrix.h"

namespace conclave::weights {

struct WeightFormats {
  WeightFormats() = default;
  // A class's own. Implicit: a class is the usual choice.
  WeightFormats(kernels::NumericsClass numerics_class)  // NOLINT(google-explicit-constructor)
      : numerics(numerics_class),
        dense(kernels::WeightFormatOf(numerics_class)),
        experts(kernels::WeightFormatOf(numerics_class)) {}

  // Rows between engine and workers, tables and KV cache follow from the class; matrices from:
  kernels::NumericsClass numerics = kernels::NumericsClass::kBf16;
  kernels::WeightFormat dense =
      kernels::WeightFormat::kBf16;  // attention, dense and shared FFN, LM head (HeadFormatOf it)
  kernels::WeightFormat experts = kernels::WeightFormat::kBf16;  // routed experts

  // The name in settings, fingerprints and metrics: "bf16"; "int4:32" in groups of 32; "int8+int4"
  // where the experts' format is another. Groups of 64 go without saying.
  std::string Label() const;
  friend bool operator==(const WeightFormats&, const WeightFormats&) = default;
};

// The reverse; nullopt for what is no label. f32 goes with f32 alone: its rows are of another type.
std::optional<WeightFormats> ParseWeightFormats(std::string_view label);

// For messages: what ParseWeightFormats takes.
inline constexpr std::string_view kWeightFormatsText =
    "f32, bf16, int8 or int4, with :32 or :128 for other groups than 64, and + before the format "
    "of "
    "the routed experts where it is another (int8+int4:32)";

}  // namespace conclave::weights
