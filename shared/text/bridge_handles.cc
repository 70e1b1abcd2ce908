#include "shared/text/bridge_handles.h"

#include <charconv>

#include "absl/strings/str_cat.h"

namespace conclave::text::internal {

absl::Status StatusOf(const std::exception& error) {
  const std::string_view text = error.what();
  int code = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), code);
  if (failure != std::errc() || end == text.data() + text.size() || *end != ':') {
    return absl::InternalError(absl::StrCat("text library: ", error.what()));
  }
  return absl::Status(static_cast<absl::StatusCode>(code),
                      absl::string_view(end + 1, text.data() + text.size() - end - 1));
}

}  // namespace conclave::text::internal
