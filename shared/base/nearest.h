// The nearest known word to a mistyped one, for error messages.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace conclave {

// The candidate with the smallest edit distance to `word`; empty when there are no candidates.
std::string NearestOf(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace conclave
