#include "shared/base/json_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"

namespace conclave {
namespace {

absl::Status SystemError(std::string_view what, const std::string& path, int error) {
  const std::string message =
      absl::StrCat(std::string(what), " ", path, ": ", std::strerror(error));
  if (error == ENOENT) return absl::NotFoundError(message);
  if (error == EACCES || error == EPERM || error == EROFS) {
    return absl::PermissionDeniedError(message);
  }
  if (error == ENOSPC || error == EDQUOT) return absl::ResourceExhaustedError(message);
  return absl::UnavailableError(message);
}

absl::Status Write(int fd, const std::string& path, std::string_view bytes, Flush flush) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return SystemError("cannot write", path, errno);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  if (flush == Flush::kYes && fsync(fd) != 0) return SystemError("cannot flush", path, errno);
  return absl::OkStatus();
}

// Gives the new file the owner, group and mode of the one that it will replace, if there is one.
absl::Status TakeAccess(int fd, const std::string& temporary, const std::string& path) {
  struct stat before, now;
  if (stat(path.c_str(), &before) != 0) {
    return errno == ENOENT ? absl::OkStatus() : SystemError("cannot look at", path, errno);
  }
  if (fstat(fd, &now) != 0) return SystemError("cannot look at", temporary, errno);
  const bool same_owner = now.st_uid == before.st_uid && now.st_gid == before.st_gid;
  if (!same_owner && fchown(fd, before.st_uid, before.st_gid) != 0) {
    return SystemError(absl::StrCat("cannot keep the owner (user ", before.st_uid, ", group ",
                                    before.st_gid, "; run this as that user, or as root) of"),
                       path, errno);
  }
  if (fchmod(fd, before.st_mode & 0777) != 0) return SystemError("cannot set mode of", path, errno);
  return absl::OkStatus();
}

absl::Status TooLarge(const std::string& path, uint64_t max_bytes) {
  return absl::InvalidArgumentError(absl::StrCat(path, " has more than ", max_bytes,
                                                 " bytes, the most that are read of it; is it the "
                                                 "right file?"));
}

absl::StatusOr<std::string> ReadToEnd(int fd, const std::string& path, uint64_t max_bytes) {
  std::string text;
  char buffer[16384];
  for (;;) {
    const ssize_t count = read(fd, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return SystemError("cannot read", path, errno);
    if (count == 0) return text;
    text.append(buffer, static_cast<size_t>(count));
    if (text.size() > max_bytes) return TooLarge(path, max_bytes);
  }
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return SystemError("cannot open", path, errno);
  absl::StatusOr<std::string> text = ReadToEnd(fd, path, std::numeric_limits<uint64_t>::max());
  close(fd);
  return text;
}

absl::StatusOr<std::string> ReadRegularFile(const std::string& path, uint64_t max_bytes) {
  // Without O_NONBLOCK, opening a pipe waits for a writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return SystemError("cannot open", path, errno);
  absl::StatusOr<std::string> text;
  struct stat status;
  if (fstat(fd, &status) != 0) {
    text = SystemError("cannot read", path, errno);
  } else if (!S_ISREG(status.st_mode)) {
    text = absl::InvalidArgumentError(
        absl::StrCat(path, " is not a regular file; put the file itself there"));
  } else if (static_cast<uint64_t>(status.st_size) > max_bytes) {
    text = TooLarge(path, max_bytes);
  } else {
    text = ReadToEnd(fd, path, max_bytes);  // it may grow meanwhile
  }
  close(fd);
  return text;
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view bytes, Flush flush,
                                 Access access) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (!folder.empty()) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) return SystemError("cannot make the folder", folder, error.value());
  }
  std::string temporary = path + ".XXXXXX";
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return SystemError("cannot make", temporary, errno);
  absl::Status status =
      access == Access::kAsBefore ? TakeAccess(fd, temporary, path) : absl::OkStatus();
  if (status.ok()) status = Write(fd, temporary, bytes, flush);
  close(fd);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = SystemError("cannot rename to", path, errno);
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  if (flush == Flush::kNo) return absl::OkStatus();
  // The rename itself lasts once the folder is flushed.
  const int folder_fd =
      open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_fd >= 0) {
    fsync(folder_fd);
    close(folder_fd);
  }
  return absl::OkStatus();
}

bool IsNestedTooDeeply(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kDeepestJson) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, uint64_t max_bytes) {
  ASSIGN_OR_RETURN(const std::string text, ReadRegularFile(path, max_bytes));
  return ParseJson(path, text);
}

absl::StatusOr<nlohmann::json> ParseJson(const std::string& path, const std::string& text) {
  if (IsNestedTooDeeply(text)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " has JSON nested deeper than ", kDeepestJson, " levels; repair or remove the file"));
  }
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not JSON: ", error.what(), "; repair or remove the file"));
  }
}

absl::Status WriteJsonFile(const std::string& path, const nlohmann::json& value, Access access) {
  return WriteFileAtomically(
      path, value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n", Flush::kYes,
      access);
}

}  // namespace conclave
