// Messages as bytes. The inference service takes raw bytes and parses them itself: the library's
// callback methods answer bytes they cannot parse with UNIMPLEMENTED and no word of why
// (gRPC 1.51).
//
// Pure functions; any thread.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/support/byte_buffer.h"

namespace conclave::gateway {

// INVALID_ARGUMENT when the bytes are not such a message, or a string in it is not UTF-8.
template <typename Message>
absl::Status ParseWire(grpc::ByteBuffer bytes, Message* message) {
  const size_t size = bytes.Length();
  if (size == 0) {  // every field has its default; an empty buffer may have no slices at all
    message->Clear();
    return absl::OkStatus();
  }
  if (grpc::SerializationTraits<Message>::Deserialize(&bytes, message).ok()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the request's ", size, " bytes are not a ", Message::descriptor()->full_name(),
                   ": malformed protobuf, or a string that is not UTF-8"));
}

template <typename Message>
grpc::ByteBuffer ToWire(const Message& message) {
  grpc::ByteBuffer bytes;
  bool own_buffer = false;
  // Fails only for messages beyond 2 GiB, which nothing here makes.
  (void)grpc::SerializationTraits<Message>::Serialize(message, &bytes, &own_buffer);
  return bytes;
}

}  // namespace conclave::gateway
