// Messages as bytes: the inference service takes raw bytes and says itself what is wrong with them.
//
// Pure functions; any thread.
#pragma once

#include <climits>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace conclave::gateway {

// INVALID_ARGUMENT when the bytes are not such a message, or a string in it is not UTF-8.
template <typename Message>
absl::Status ParseWire(std::string_view bytes, Message* message) {
  if (bytes.size() <= INT_MAX &&
      message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "the request's ", bytes.size(), " bytes are not a ", Message::descriptor()->full_name(),
      ": malformed protobuf, or a string that is not UTF-8"));
}

}  // namespace conclave::gateway
