#include "shared/h2/message_reader.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"

namespace conclave::h2 {
namespace {

// Taken for a message whose rest is still to come.
constexpr size_t kFirstBytes = 64 << 10;
// What is decompressed at once.
constexpr size_t kStepBytes = 16 << 10;

// False: it is not the whole of one such stream. `*fits` tells whether it stayed in `most` bytes;
// what is beyond is not decompressed.
bool Inflate(std::string_view bytes, Encoding encoding, size_t most, std::string* message,
             bool* fits) {
  constexpr int kGzipWindow = 15 + 16, kZlibWindow = 15;  // of zlib's inflateInit2
  z_stream stream{};
  if (inflateInit2(&stream, encoding == Encoding::kGzip ? kGzipWindow : kZlibWindow) != Z_OK) {
    return false;
  }
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  int result = Z_OK;
  *fits = true;
  while (result == Z_OK && *fits) {
    const size_t begin = message->size();
    message->resize(begin + kStepBytes);
    stream.next_out = reinterpret_cast<Bytef*>(message->data() + begin);
    stream.avail_out = static_cast<uInt>(kStepBytes);
    result = inflate(&stream, Z_NO_FLUSH);
    message->resize(begin + kStepBytes - stream.avail_out);
    *fits = message->size() <= most;
  }
  const bool whole = stream.avail_in == 0;
  inflateEnd(&stream);
  return !*fits || (result == Z_STREAM_END && whole);
}

}  // namespace

absl::Status MessageReader::Take(std::string_view bytes, const Events& events) {
  while (!bytes.empty()) {
    if (prefix_bytes_ < kPrefixBytes) {
      const size_t count = std::min(bytes.size(), kPrefixBytes - prefix_bytes_);
      std::memcpy(prefix_ + prefix_bytes_, bytes.data(), count);
      prefix_bytes_ += count;
      bytes.remove_prefix(count);
      if (prefix_bytes_ < kPrefixBytes) break;
      message_bytes_ = LengthIn({prefix_, kPrefixBytes});
      if (message_bytes_ > max_bytes_) return TooLarge(message_bytes_, "is");
      if (bytes.size() < message_bytes_) RETURN_IF_ERROR(events.may_arrive(message_bytes_));
      if (bytes.empty()) break;
    }
    if (partial_.empty() && bytes.size() >= message_bytes_) {
      prefix_bytes_ = 0;
      RETURN_IF_ERROR(Deliver(bytes.substr(0, message_bytes_), events));
      bytes.remove_prefix(message_bytes_);
      continue;
    }
    const size_t count = std::min(bytes.size(), message_bytes_ - partial_.size());
    // At once: growing in small steps would leave holes in the heap.
    if (partial_.empty()) partial_.reserve(std::min(message_bytes_, kFirstBytes));
    partial_.append(bytes.substr(0, count));
    bytes.remove_prefix(count);
    if (partial_.size() < message_bytes_) break;
    prefix_bytes_ = 0;
    std::string message;
    message.swap(partial_);  // large ones are seldom, and idle calls hold nothing
    RETURN_IF_ERROR(Deliver(message, events));
  }
  // One of no bytes is whole with its prefix.
  if (prefix_bytes_ == kPrefixBytes && message_bytes_ == 0) {
    prefix_bytes_ = 0;
    return Deliver({}, events);
  }
  return absl::OkStatus();
}

absl::Status MessageReader::Deliver(std::string_view message, const Events& events) {
  if (prefix_[0] == 0) {
    events.on_message(message);
    return absl::OkStatus();
  }
  if (encoding_ == Encoding::kIdentity || prefix_[0] != 1) {
    return absl::InternalError(
        "a message says that it is compressed, but the call has no grpc-encoding");
  }
  std::string inflated;
  bool fits = false;
  if (!Inflate(message, encoding_, max_bytes_, &inflated, &fits)) {
    return absl::InternalError("a message cannot be decompressed with the call's grpc-encoding");
  }
  if (!fits) return TooLarge(inflated.size(), "decompresses to at least");
  events.on_message(inflated);
  return absl::OkStatus();
}

absl::Status MessageReader::TooLarge(size_t bytes, const char* which) const {
  return absl::ResourceExhaustedError(absl::StrCat(
      "the message ", which, " ", bytes, " bytes; the most that is taken is ", max_bytes_));
}

}  // namespace conclave::h2
