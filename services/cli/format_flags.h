// The flags by which `pack` and `eval` take the formats of weights.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "shared/weights/weight_formats.h"

namespace CLI {
class App;
}

namespace conclave::cli {

struct FormatFlags {
  std::string format = "int8";
  std::string experts;  // of the routed experts; empty: the same
  int group = 0;        // of integers; 0: the usual one
};

// Adds --format, --experts and --group to `app`; `flags` outlives it.
void AddFormatFlags(CLI::App& app, FormatFlags* flags);

// INVALID_ARGUMENT names the flag and what it may be.
absl::StatusOr<weights::WeightFormats> ParseFormats(const FormatFlags& flags);

}  // namespace conclave::cli
