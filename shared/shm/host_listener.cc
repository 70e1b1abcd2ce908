#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "shared/base/random_bytes.h"
#include "shared/base/status_macros.h"
#include "shared/shm/host_socket.h"
#include "shared/shm/socket_call.h"

namespace conclave::shm {
namespace {

absl::Status CannotListen(const std::string& path, int error) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen at the socket ", path, ": ", std::strerror(error)));
}

// That what lies at the path, if anything does, may be replaced.
absl::Status CheckUnused(const std::string& path) {
  struct stat found {};
  if (stat(path.c_str(), &found) == 0 && !S_ISSOCK(found.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cannot listen at ", path, ": it is a file, and no socket; remove it or choose another"));
  }
  const Descriptor probe(ConnectTo(path));
  if (probe.get() < 0 && (errno == ENOENT || errno == ECONNREFUSED)) return absl::OkStatus();
  // Too many wait there already; it is a socket of another kind.
  if (probe.get() >= 0 || errno == EAGAIN || errno == EPROTOTYPE) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot listen at the socket ", path,
                     ": another process listens there; stop it or choose another path"));
  }
  return CannotListen(path, errno);
}

}  // namespace

absl::StatusOr<HostListener> HostListener::Listen(const std::string& path) {
  const std::filesystem::path file(path);
  const std::string folder_path = file.has_parent_path() ? file.parent_path().string() : ".";
  const Descriptor folder(open(folder_path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) return CannotListen(path, errno);
  RETURN_IF_ERROR(CheckUnused(path));

  HostListener listener(MakeSocket(), path);
  if (listener.descriptor_ < 0) return CannotListen(path, errno);
  // It gets its name when it listens: who finds the file finds somebody.
  const std::string unnamed = absl::StrCat(".", absl::BytesToHexString(RandomBytes(8)));
  if (!BindIn(folder.get(), unnamed, listener.descriptor_)) return CannotListen(path, errno);
  if (listen(listener.descriptor_, SOMAXCONN) != 0 ||
      renameat(folder.get(), unnamed.c_str(), folder.get(), file.filename().c_str()) != 0) {
    const int error = errno;
    unlinkat(folder.get(), unnamed.c_str(), 0);
    return CannotListen(path, error);
  }
  return listener;
}

HostListener::HostListener(int descriptor, std::string path)
    : descriptor_(descriptor), path_(std::move(path)) {}

HostListener::HostListener(HostListener&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}

HostListener& HostListener::operator=(HostListener&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  return *this;
}

HostListener::~HostListener() {
  if (descriptor_ >= 0) close(descriptor_);
}

std::optional<HostConnection> HostListener::Accept(std::chrono::milliseconds timeout) {
  const Deadline deadline(timeout);
  while (deadline.Await(descriptor_, POLLIN)) {
    const int accepted = accept4(descriptor_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (accepted >= 0) {
      HostConnection connection(accepted);
      std::string whose;
      if (PeerIsTrusted(accepted, &whose)) return connection;
    } else if (errno != EINTR && errno != EAGAIN && errno != ECONNABORTED) {
      // No descriptors are left, say: whoever waits is still there next time.
      deadline.AwaitEnd();
      return std::nullopt;
    }
  }
  return std::nullopt;
}

}  // namespace conclave::shm
