#include "shared/text/bridge_handles.h"

#include <charconv>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace conclave::text::internal {

namespace {
constexpr char kAtLeastIds[] = "conclave/at-least-ids";
}

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

const Interrupt& InterruptOf(const EncodeLimits& limits) {
  static const Interrupt never;
  return limits.interrupt ? *limits.interrupt : never;
}

absl::StatusOr<std::vector<int32_t>> TakeIds(const absl::StatusOr<bridge::Ids>& ids,
                                             const EncodeLimits& limits) {
  if (absl::IsCancelled(ids.status()) && limits.interrupt) {
    return limits.interrupt->reason() == Interrupt::Reason::kDeadline
               ? absl::DeadlineExceededError("the time was over before the text was encoded")
               : absl::CancelledError("cancelled before the text was encoded");
  }
  if (!ids.ok()) return ids.status();
  if (ids->at_least == 0) return std::vector<int32_t>(ids->ids.begin(), ids->ids.end());
  absl::Status status =
      absl::OutOfRangeError(absl::StrCat("the text has at least ", ids->at_least,
                                         " tokens; at most ", limits.max_ids, " were wanted"));
  status.SetPayload(kAtLeastIds, absl::Cord(absl::StrCat(ids->at_least)));
  return status;
}

}  // namespace conclave::text::internal

namespace conclave::text {

std::optional<int64_t> AtLeastIds(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(internal::kAtLeastIds);
  int64_t number = 0;
  if (!payload || !absl::SimpleAtoi(std::string(*payload), &number)) return std::nullopt;
  return number;
}

}  // namespace conclave::text
