// A text's ids, cut into the windows that a model is evaluated on. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace conclave::engine {

// The ids of `text` in their order, in windows of `context` ids (at least 2), the last one shorter.
// With `bos`, which the model's prompts begin with, every window is that id and context - 1 of the
// text's. A last window without anything to predict is left out. All but a window's first id are
// predicted by the ids before them in the window.
std::vector<std::vector<int32_t>> TextWindows(std::span<const int32_t> text, int64_t context,
                                              std::optional<int32_t> bos);

}  // namespace conclave::engine
