// One choice's way from ids to visible text: incremental detokenizer, then stop strings. Also
// decides which ids count.
//
// Owned by the running request, used on the gateway's core thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/gateway/stop_matcher.h"
#include "shared/text/incremental_detokenizer.h"
#include "shared/text/tokenizer.h"

namespace conclave::gateway {

class ChoiceStream {
 public:
  struct Options {
    std::vector<std::string> stop;
    int64_t min_tokens = 0;  // no stop string is looked for in the text of the first so many ids
  };
  ChoiceStream(std::shared_ptr<const text::Tokenizer> tokenizer, Options options);

  struct Piece {
    size_t num_taken = 0;             // ids that count; the rest came after the stop
    std::string text;                 // may be shown now
    std::optional<std::string> stop;  // the stop string that is complete with the last id taken
  };
  // INVALID_ARGUMENT or OUT_OF_RANGE from the tokenizer for an id that cannot be. Precondition: no
  // stop has been returned.
  absl::StatusOr<Piece> Push(std::span<const int32_t> ids);
  // The text held back, when the choice ends without a stop string.
  absl::StatusOr<std::string> Finish();

  int64_t num_ids() const { return num_ids_; }

 private:
  const Options options_;
  text::IncrementalDetokenizer detokenizer_;
  StopMatcher matcher_;
  int64_t num_ids_ = 0;
};

}  // namespace conclave::gateway
