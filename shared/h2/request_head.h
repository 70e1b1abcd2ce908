// The headers of one request: what gRPC reads of them, and the rest for the service.
//
// Used on the I/O thread of a connection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "shared/base/clock.h"
#include "shared/h2/message_reader.h"
#include "shared/h2/metadata.h"

namespace conclave::h2 {

class RequestHead {
 public:
  // Names are in lower case, as HTTP/2 has them. What is beyond `max_bytes` in all, counted as
  // SETTINGS_MAX_HEADER_LIST_SIZE counts (RFC 9113, section 6.5.2), is not kept.
  void Add(std::string_view name, std::string_view value, size_t max_bytes);

  // Why the request is not served, once all headers are there.
  struct Fault {
    int http_status = 200;  // other than 200: the client does not speak gRPC
    absl::Status status;
  };
  Fault Check(size_t max_bytes) const;

  std::string_view path() const { return path_; }
  std::optional<Duration> timeout() const { return timeout_; }
  Encoding encoding() const { return encoding_; }
  const Metadata& metadata() const { return metadata_; }
  size_t bytes() const { return bytes_; }

 private:
  std::string path_;
  std::string unknown_encoding_, bad_timeout_;
  bool is_post_ = false, is_grpc_ = false, takes_trailers_ = false;
  std::optional<Duration> timeout_;
  Encoding encoding_ = Encoding::kIdentity;
  Metadata metadata_;
  size_t bytes_ = 0;
};

}  // namespace conclave::h2
