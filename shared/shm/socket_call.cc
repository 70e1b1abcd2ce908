#include "shared/shm/socket_call.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/check.h"

namespace conclave::shm {
namespace {

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  CONCLAVE_CHECK(path.size() < sizeof(address.sun_path));
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

std::string PathOf(int descriptor) { return absl::StrCat("/proc/self/fd/", descriptor); }

}  // namespace

Descriptor::~Descriptor() {
  const int error = errno;
  if (value_ >= 0) close(value_);
  errno = error;
}

int Descriptor::Release() { return std::exchange(value_, -1); }

int MakeSocket() { return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

int ConnectTo(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_PATH | O_CLOEXEC));
  if (file.get() < 0) return -1;
  Descriptor connection(MakeSocket());
  if (connection.get() < 0) return -1;
  const sockaddr_un address = AddressOf(PathOf(file.get()));
  while (connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) !=
         0) {
    if (errno != EINTR) return -1;
  }
  return connection.Release();
}

bool BindIn(int folder, const std::string& name, int socket) {
  // The file's mode is the socket's own, less the umask's bits: so others never can connect.
  if (fchmod(socket, 0600) != 0) return false;
  const sockaddr_un address = AddressOf(absl::StrCat(PathOf(folder), "/", name));
  return bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

bool PeerIsTrusted(int socket, std::string* whose) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    *whose = absl::StrCat("of an unknown user (", std::strerror(errno), ")");
    return false;
  }
  *whose = absl::StrCat("of user ", peer.uid);
  return peer.uid == geteuid() || peer.uid == 0;
}

// A year stands for ever: more could not be added to the present.
Deadline::Deadline(std::chrono::milliseconds timeout)
    : end_(std::chrono::steady_clock::now() +
           std::min<std::chrono::milliseconds>(timeout, std::chrono::hours(24 * 365))) {}

int Deadline::RemainingMs() const {
  const auto remaining =
      std::chrono::ceil<std::chrono::milliseconds>(end_ - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<int64_t>(remaining.count(), 0, 1'000'000'000));
}

bool Deadline::Await(int descriptor, short events) const {
  pollfd wanted = {.fd = descriptor, .events = events, .revents = 0};
  while (true) {
    const int remaining_ms = RemainingMs();
    const int ready = poll(&wanted, 1, remaining_ms);
    if (ready > 0) return true;
    if (remaining_ms == 0) return false;
    // Another failure than a signal is for the call to tell that follows.
    if (ready < 0 && errno != EINTR) return true;
  }
}

void Deadline::AwaitEnd() const {
  for (int remaining_ms = RemainingMs(); remaining_ms > 0; remaining_ms = RemainingMs()) {
    poll(nullptr, 0, remaining_ms);
  }
}

}  // namespace conclave::shm
