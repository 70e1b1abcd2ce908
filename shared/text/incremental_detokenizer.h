// Turns a stream of ids into a stream of text: what is returned is final, whole UTF-8 characters,
// and all pieces together are exactly Tokenizer::Decode of all ids.
//
// One per request, owned by the code that streams it; not thread-safe. Constant work per id on
// average. The state is the bytes not yet final: at most 3 for byte-level models; for models with
// byte fallback the current run of byte tokens, because the library decodes such a run as a whole
// (valid UTF-8, or one U+FFFD per byte).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "shared/text/tokenizer.h"

namespace conclave::text {

namespace internal {
struct DetokenizerHandle;
}

class IncrementalDetokenizer {
 public:
  // Keeps the tokenizer alive.
  explicit IncrementalDetokenizer(std::shared_ptr<const Tokenizer> tokenizer,
                                  const DecodeOptions& options = {});
  ~IncrementalDetokenizer();
  IncrementalDetokenizer(IncrementalDetokenizer&&) noexcept;
  IncrementalDetokenizer& operator=(IncrementalDetokenizer&&) noexcept;

  // The text that these ids make final; may be empty. OUT_OF_RANGE as Tokenizer::Decode; ids before
  // the refused one have been taken then, and their text comes with the next call.
  absl::StatusOr<std::string> Push(std::span<const int32_t> ids);
  absl::StatusOr<std::string> Push(int32_t id) { return Push(std::span<const int32_t>(&id, 1)); }

  // The rest: incomplete characters as U+FFFD. Afterwards the detokenizer is as new.
  absl::StatusOr<std::string> Flush();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<internal::DetokenizerHandle> handle_;
};

}  // namespace conclave::text
