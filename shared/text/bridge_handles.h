// The Rust objects behind the classes of this folder, and the way to call them. Only this folder's
// .cc files include it.
#pragma once

#include <exception>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "conclave_text_bridge/src/lib.rs.h"
#include "rust/cxx.h"
#include "shared/text/tokenizer.h"

namespace conclave::text::internal {

struct TokenizerHandle {
  rust::Box<bridge::TokenizerBridge> rust;
};

struct DetokenizerHandle {
  rust::Box<bridge::DetokenizerBridge> rust;
};

struct ChatTemplateHandle {
  rust::Box<bridge::TemplatesBridge> rust;
};

// Takes apart "<code>:<message>" of bridge/src/error.rs.
absl::Status StatusOf(const std::exception& error);

// Calls a bridged function; what it throws (its error, or std::bad_alloc) becomes the status.
// Yields a Status if it returns nothing.
template <typename Function>
auto Call(Function&& function) {
  using Result = std::invoke_result_t<Function>;
  using Returned =
      std::conditional_t<std::is_void_v<Result>, absl::Status,
                         absl::StatusOr<std::conditional_t<std::is_void_v<Result>, int, Result>>>;
  try {
    if constexpr (std::is_void_v<Result>) {
      function();
      return Returned(absl::OkStatus());
    } else {
      return Returned(function());
    }
  } catch (const std::exception& error) {
    return Returned(StatusOf(error));
  }
}

// What the limits name, or an interrupt that never comes.
const Interrupt& InterruptOf(const EncodeLimits& limits);
// The ids of a call, or its error as Tokenizer::Encode promises it.
absl::StatusOr<std::vector<int32_t>> TakeIds(const absl::StatusOr<bridge::Ids>& ids,
                                             const EncodeLimits& limits);

// Borrows `bytes`.
inline rust::Slice<const uint8_t> ByteSlice(std::string_view bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

inline rust::Slice<const int32_t> IdSlice(std::span<const int32_t> ids) {
  return {ids.data(), ids.size()};
}

}  // namespace conclave::text::internal
