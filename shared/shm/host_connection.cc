#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/shm/host_socket.h"
#include "shared/shm/socket_call.h"

namespace conclave::shm {
namespace {

absl::Status Gone() { return absl::UnavailableError("the other process of the host is gone"); }

// What came with a message.
std::vector<int> TakeDescriptors(msghdr* header) {
  std::vector<int> taken;
  for (cmsghdr* part = CMSG_FIRSTHDR(header); part != nullptr; part = CMSG_NXTHDR(header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t before = taken.size(), bytes = part->cmsg_len - CMSG_LEN(0);
    taken.resize(before + bytes / sizeof(int));
    std::memcpy(taken.data() + before, CMSG_DATA(part), bytes);
  }
  return taken;
}

// Memory for the descriptors of a message.
struct Passed {
  alignas(cmsghdr) char bytes[CMSG_SPACE(HostConnection::kMostDescriptors * sizeof(int))] = {};
};

}  // namespace

HostMessage::HostMessage(HostMessage&& other) noexcept
    : bytes(std::move(other.bytes)), descriptors(std::exchange(other.descriptors, {})) {}

HostMessage& HostMessage::operator=(HostMessage&& other) noexcept {
  std::swap(bytes, other.bytes);
  std::swap(descriptors, other.descriptors);
  return *this;
}

HostMessage::~HostMessage() {
  for (const int descriptor : descriptors) {
    if (descriptor >= 0) close(descriptor);
  }
}

absl::StatusOr<HostConnection> HostConnection::Connect(const std::string& path) {
  const std::string failed = absl::StrCat("cannot connect to the socket ", path);
  const int descriptor = ConnectTo(path);
  if (descriptor < 0) {
    switch (errno) {
      case ENOTDIR:
        return absl::NotFoundError(absl::StrCat(failed, ": ", std::strerror(errno)));
      case ECONNREFUSED:
        return absl::UnavailableError(absl::StrCat(failed, ": nobody listens there"));
      case EAGAIN:
        return absl::UnavailableError(absl::StrCat(failed, ": too many wait there already"));
      case EPROTOTYPE:
        return absl::UnavailableError(absl::StrCat(failed, ": it is a socket of another kind"));
      default:
        return absl::ErrnoToStatus(errno, failed);
    }
  }
  HostConnection connection(descriptor);
  std::string whose;
  if (!PeerIsTrusted(descriptor, &whose)) {
    return absl::PermissionDeniedError(
        absl::StrCat(failed, ": the process that listens there is ", whose));
  }
  return connection;
}

HostConnection::HostConnection(int descriptor) : descriptor_(descriptor) {}

HostConnection::HostConnection(HostConnection&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}

HostConnection& HostConnection::operator=(HostConnection&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

HostConnection::~HostConnection() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status HostConnection::Send(std::span<const std::byte> bytes,
                                  std::span<const int> descriptors) {
  if (bytes.empty() || bytes.size() > kMostBytes || descriptors.size() > kMostDescriptors) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a message of ", bytes.size(), " bytes and ", descriptors.size(),
        " descriptors cannot be sent; it may have 1 to ", kMostBytes, " and ", kMostDescriptors));
  }
  iovec content = {.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  msghdr header{};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  Passed passed;
  if (!descriptors.empty()) {
    header.msg_control = passed.bytes;
    header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(part), descriptors.data(), descriptors.size_bytes());
  }
  while (sendmsg(descriptor_, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    switch (errno) {
      case EINTR:
        continue;
      case EPIPE:
      case ECONNRESET:
      case ECONNREFUSED:
        return Gone();
      case EAGAIN:
        return absl::ResourceExhaustedError(
            "cannot send to the other process of the host: it reads none of many messages");
      default:
        return absl::ErrnoToStatus(errno, "cannot send to the other process of the host");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<HostMessage> HostConnection::Receive(std::chrono::milliseconds timeout) {
  const Deadline deadline(timeout);
  HostMessage message;
  message.bytes.resize(kMostBytes);
  iovec content = {.iov_base = message.bytes.data(), .iov_len = message.bytes.size()};
  Passed passed;
  msghdr header{};
  ssize_t received = -1;
  while (received < 0) {
    if (!deadline.Await(descriptor_, POLLIN)) {
      return absl::DeadlineExceededError(absl::StrCat(
          "the other process of the host sent nothing within ", timeout.count(), " ms"));
    }
    header = {};
    header.msg_iov = &content;
    header.msg_iovlen = 1;
    header.msg_control = passed.bytes;
    header.msg_controllen = sizeof(passed.bytes);
    received = recvmsg(descriptor_, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    // ECONNRESET is told once, before what the other side sent in time.
    if (received < 0 && errno != EINTR && errno != EAGAIN && errno != ECONNRESET) {
      return absl::ErrnoToStatus(errno, "cannot receive from the other process of the host");
    }
  }
  message.descriptors = TakeDescriptors(&header);
  const bool whole = (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
  if (received > 0 && whole) {
    message.bytes.resize(static_cast<size_t>(received));
    return message;
  }
  // A message of no bytes cannot be told from the end, and Send sends none.
  if (received == 0) return Gone();
  return absl::InvalidArgumentError(
      absl::StrCat("the other process of the host sent a message of more than ", kMostBytes,
                   " bytes or ", kMostDescriptors, " descriptors"));
}

void HostConnection::AwaitEnd() {
  while (!Deadline(std::chrono::hours(1)).Await(descriptor_, POLLIN | POLLRDHUP)) {
  }
}

void HostConnection::Shutdown() { shutdown(descriptor_, SHUT_RDWR); }

}  // namespace conclave::shm
