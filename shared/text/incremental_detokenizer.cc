#include "shared/text/incremental_detokenizer.h"

#include <utility>

#include "shared/base/check.h"
#include "shared/base/status_macros.h"
#include "shared/text/bridge_handles.h"

namespace conclave::text {

using internal::Call;

IncrementalDetokenizer::IncrementalDetokenizer(std::shared_ptr<const Tokenizer> tokenizer,
                                               const DecodeOptions& options)
    : tokenizer_(std::move(tokenizer)) {
  CONCLAVE_CHECK(tokenizer_ != nullptr);
  auto rust = Call([&] {
    return bridge::new_detokenizer(*tokenizer_->handle().rust, options.skip_special_tokens,
                                   options.allow_unknown_ids);
  });
  CONCLAVE_CHECK(rust.ok());  // it only allocates
  handle_ =
      std::make_unique<internal::DetokenizerHandle>(internal::DetokenizerHandle{*std::move(rust)});
}

IncrementalDetokenizer::~IncrementalDetokenizer() = default;
IncrementalDetokenizer::IncrementalDetokenizer(IncrementalDetokenizer&&) noexcept = default;
IncrementalDetokenizer& IncrementalDetokenizer::operator=(IncrementalDetokenizer&&) noexcept =
    default;

absl::StatusOr<std::string> IncrementalDetokenizer::Push(std::span<const int32_t> ids) {
  ASSIGN_OR_RETURN(const rust::String text,
                   Call([&] { return handle_->rust->push(internal::IdSlice(ids)); }));
  return std::string(text);
}

absl::StatusOr<std::string> IncrementalDetokenizer::Flush() {
  ASSIGN_OR_RETURN(const rust::String text, Call([&] { return handle_->rust->flush(); }));
  return std::string(text);
}

}  // namespace conclave::text
