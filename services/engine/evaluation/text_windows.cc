#include "services/engine/evaluation/text_windows.h"

#include <algorithm>

#include "shared/base/check.h"

namespace conclave::engine {

std::vector<std::vector<int32_t>> TextWindows(std::span<const int32_t> text, int64_t context,
                                              std::optional<int32_t> bos) {
  CONCLAVE_CHECK(context >= 2);
  std::vector<std::vector<int32_t>> windows;
  while (!text.empty()) {
    std::vector<int32_t> window;
    if (bos) window.push_back(*bos);
    const size_t count = std::min(text.size(), static_cast<size_t>(context) - window.size());
    window.insert(window.end(), text.begin(), text.begin() + static_cast<std::ptrdiff_t>(count));
    text = text.subspan(count);
    if (window.size() >= 2) windows.push_back(std::move(window));
  }
  return windows;
}

}  // namespace conclave::engine
