#include "services/gateway/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace conclave::gateway {

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& stop : stops) {
    Pattern pattern{.text = std::move(stop), .fallback = {}, .length = 0};
    pattern.fallback.assign(pattern.text.size(), 0);
    for (size_t i = 1, k = 0; i < pattern.text.size(); ++i) {
      while (k > 0 && pattern.text[i] != pattern.text[k]) k = pattern.fallback[k - 1];
      if (pattern.text[i] == pattern.text[k]) ++k;
      pattern.fallback[i] = k;
    }
    patterns_.push_back(std::move(pattern));
  }
}

StopMatcher::Result StopMatcher::Push(std::string_view text) {
  Result result;
  if (patterns_.empty()) {
    result.text = text;
    return result;
  }
  for (const char c : text) {
    held_.push_back(c);
    size_t longest_partial = 0;
    size_t longest_match = 0;
    for (size_t p = 0; p < patterns_.size(); ++p) {
      Pattern& pattern = patterns_[p];
      size_t& k = pattern.length;
      while (k > 0 && pattern.text[k] != c) k = pattern.fallback[k - 1];
      if (pattern.text[k] == c) ++k;
      if (k == pattern.text.size()) {
        if (k > longest_match) {
          longest_match = k;
          result.matched = static_cast<int>(p);
        }
        k = pattern.fallback[k - 1];
      }
      longest_partial = std::max(longest_partial, k);
    }
    if (result.matched >= 0) {
      result.text.append(held_, 0, held_.size() - longest_match);
      held_.clear();
      return result;
    }
    const size_t free = held_.size() - longest_partial;
    result.text.append(held_, 0, free);
    held_.erase(0, free);
  }
  return result;
}

std::string StopMatcher::Flush() {
  for (Pattern& pattern : patterns_) pattern.length = 0;
  return std::exchange(held_, {});
}

}  // namespace conclave::gateway
