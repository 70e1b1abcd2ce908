// Configs of published models, for `conclave pack --random`: their shapes, without a checkpoint.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace conclave::cli {

// The names, for messages and help.
std::vector<std::string_view> KnownShapes();

// The text of such a model's config.json, without what does not change the computation; empty for
// another name.
std::string_view KnownShape(std::string_view name);

}  // namespace conclave::cli
