// The demonstration model that comes with the program: what commands use when no --model is given.
#pragma once

#include <string>

namespace conclave::cli {

// Where a setting's value came from, when it is the bundled model.
inline constexpr char kBundledSource[] = "bundled";

// models/tales beside the build folder, or share/conclave/models/tales beside the bin folder of an
// installation; empty when neither is there.
std::string BundledModel();

}  // namespace conclave::cli
