// Finds stop strings in a stream of text, and holds back what may become one, so that no part of a
// stop string is ever shown.
//
// One per choice; not thread-safe. The result does not depend on how the text is cut into pieces:
// the stop string that is complete first wins, of several that end together the longest.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::gateway {

class StopMatcher {
 public:
  // Each stop string is not empty.
  explicit StopMatcher(std::vector<std::string> stops);

  struct Result {
    std::string text;  // may be shown now
    int matched =
        -1;  // index of the stop string that is complete, or -1; `text` then ends before it
  };
  // Precondition: nothing has matched yet.
  Result Push(std::string_view text);
  // The text held back, when no more follows. Afterwards the matcher is as new.
  std::string Flush();

 private:
  struct Pattern {
    std::string text;
    std::vector<size_t> fallback;  // Knuth-Morris-Pratt: [text.size()]
    size_t length = 0;             // of `text`, matched at the end of what was pushed
  };
  std::vector<Pattern> patterns_;
  std::string held_;  // always the longest partial match
};

}  // namespace conclave::gateway
