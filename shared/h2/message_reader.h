// The messages in a request's bytes: takes them apart, decompresses them, and bounds them.
//
// Used on the I/O thread of a connection.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "shared/h2/grpc_wire.h"

namespace conclave::h2 {

enum class Encoding { kIdentity, kDeflate, kGzip };

class MessageReader {
 public:
  explicit MessageReader(size_t max_bytes) : max_bytes_(max_bytes) {}

  // Of messages that say that they are compressed.
  void set_encoding(Encoding encoding) { encoding_ = encoding; }

  struct Events {
    // A whole message; valid during the call.
    std::function<void(std::string_view)> on_message;
    // A message of so many bytes has begun and is not all there: whether the rest may come.
    std::function<absl::Status(size_t)> may_arrive;
  };
  // Takes the next bytes. RESOURCE_EXHAUSTED with the sizes for a message, or what it decompresses
  // to, beyond max_bytes; INTERNAL for one that is compressed and should not be, or cannot be
  // decompressed; else what may_arrive says. After an error nothing more may be taken.
  absl::Status Take(std::string_view bytes, const Events& events);

  // Whether a part of a message is there, and the memory that it takes.
  bool partial() const { return prefix_bytes_ > 0; }
  size_t held() const { return prefix_bytes_ + (partial_.empty() ? 0 : partial_.capacity()); }
  // Nothing more will be taken.
  void Drop() {
    std::string().swap(partial_);
    prefix_bytes_ = 0;
  }

 private:
  absl::Status Deliver(std::string_view message, const Events& events);
  absl::Status TooLarge(size_t bytes, const char* which) const;

  const size_t max_bytes_;
  Encoding encoding_ = Encoding::kIdentity;
  char prefix_[kPrefixBytes];
  size_t prefix_bytes_ = 0;  // that are there of it
  size_t message_bytes_ = 0;
  std::string partial_;
};

}  // namespace conclave::h2
