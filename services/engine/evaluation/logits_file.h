// Rows of logits on the disk, between the run of the reference and that of the format: so that one
// of the two models is in memory at a time, and their logits are not.
//
// A file without a name in the folder for temporary ones; it ends with the object. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::engine {

class LogitsFile {
 public:
  // UNAVAILABLE names the folder and the system's reason, as all that follows.
  static absl::StatusOr<std::unique_ptr<LogitsFile>> Create();
  ~LogitsFile();
  LogitsFile(const LogitsFile&) = delete;
  LogitsFile& operator=(const LogitsFile&) = delete;

  absl::Status Append(std::span<const float> values);
  // The next values from the beginning on, which were appended.
  absl::Status ReadNext(std::span<float> values);

 private:
  explicit LogitsFile(int fd) : fd_(fd) {}
  const int fd_;
  int64_t written_ = 0, read_ = 0;  // bytes
};

}  // namespace conclave::engine
