#include "services/engine/evaluation/logits_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"

namespace conclave::engine {
namespace {

std::string Folder() {
  std::error_code error;
  const std::string folder = std::filesystem::temp_directory_path(error).string();
  return folder.empty() ? "/tmp" : folder;
}

absl::Status Failed(const char* what, int error) {
  return absl::UnavailableError(
      absl::StrCat("cannot ", what, " the reference's logits in ", Folder(), ": ",
                   error == 0 ? "the file is too short" : std::strerror(error),
                   "; make room there, set TMPDIR to another folder, or evaluate fewer tokens"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LogitsFile>> LogitsFile::Create() {
  std::string path = Folder() + "/conclave-logits-XXXXXX";
  const int fd = mkostemp(path.data(), O_CLOEXEC);
  if (fd < 0) return Failed("keep", errno);
  unlink(path.c_str());
  return std::unique_ptr<LogitsFile>(new LogitsFile(fd));
}

LogitsFile::~LogitsFile() { close(fd_); }

absl::Status LogitsFile::Append(std::span<const float> values) {
  std::span<const std::byte> bytes = std::as_bytes(values);
  while (!bytes.empty()) {
    const ssize_t count = pwrite(fd_, bytes.data(), bytes.size(), written_);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return Failed("write", errno);
    written_ += count;
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

absl::Status LogitsFile::ReadNext(std::span<float> values) {
  std::span<std::byte> bytes = std::as_writable_bytes(values);
  while (!bytes.empty()) {
    const ssize_t count = pread(fd_, bytes.data(), bytes.size(), read_);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return Failed("read", count < 0 ? errno : 0);
    read_ += count;
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

}  // namespace conclave::engine
