#include "services/gateway/choice_stream.h"

#include <utility>

#include "shared/base/status_macros.h"

namespace conclave::gateway {

ChoiceStream::ChoiceStream(std::shared_ptr<const text::Tokenizer> tokenizer, Options options)
    : options_(std::move(options)),
      detokenizer_(std::move(tokenizer), {.skip_special_tokens = true, .allow_unknown_ids = true}),
      matcher_(options_.stop) {}

absl::StatusOr<ChoiceStream::Piece> ChoiceStream::Push(std::span<const int32_t> ids) {
  Piece piece;
  for (const int32_t id : ids) {
    const bool may_stop = num_ids_ >= options_.min_tokens;
    ++num_ids_;
    ++piece.num_taken;
    ASSIGN_OR_RETURN(const std::string text, detokenizer_.Push(id));
    if (!may_stop) {
      piece.text += text;
      continue;
    }
    StopMatcher::Result result = matcher_.Push(text);
    piece.text += result.text;
    if (result.matched >= 0) {
      piece.stop = options_.stop[static_cast<size_t>(result.matched)];
      return piece;
    }
  }
  return piece;
}

absl::StatusOr<std::string> ChoiceStream::Finish() {
  ASSIGN_OR_RETURN(const std::string rest, detokenizer_.Flush());
  // The last characters may still complete a stop string.
  StopMatcher::Result result = matcher_.Push(rest);
  if (result.matched >= 0) return result.text;
  return result.text + matcher_.Flush();
}

}  // namespace conclave::gateway
