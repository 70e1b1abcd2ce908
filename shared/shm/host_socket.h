// Unix sockets over which two processes of one user on one host meet: messages with descriptors
// (SOCK_SEQPACKET), and the news that the other one is gone.
//
// Blocking calls have a timeout. A connection may be shut down by any thread while another one
// waits in it.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::shm {

// Closes the descriptors that nobody has taken.
struct HostMessage {
  HostMessage() = default;
  HostMessage(HostMessage&& other) noexcept;
  HostMessage& operator=(HostMessage&& other) noexcept;
  ~HostMessage();

  // Of descriptors[index], which is -1 from then on; the caller's to close.
  int TakeDescriptor(size_t index) { return std::exchange(descriptors[index], -1); }

  std::vector<std::byte> bytes = {};
  std::vector<int> descriptors = {};
};

class HostConnection {
 public:
  // Paths may be as long as the file system allows (a socket's own address takes 107 bytes).
  // NOT_FOUND: no such file; UNAVAILABLE: nobody listens there (any more); PERMISSION_DENIED: the
  // listener is another user's (neither ours nor root's), or the file may not be used.
  static absl::StatusOr<HostConnection> Connect(const std::string& path);
  explicit HostConnection(int descriptor);  // takes it
  HostConnection(HostConnection&& other) noexcept;
  HostConnection& operator=(HostConnection&& other) noexcept;
  ~HostConnection();

  // 1 to kMostBytes, at most kMostDescriptors: else INVALID_ARGUMENT. The descriptors stay the
  // caller's. Never blocks: RESOURCE_EXHAUSTED when the other side has long read nothing.
  // UNAVAILABLE when it is gone.
  absl::Status Send(std::span<const std::byte> bytes, std::span<const int> descriptors);
  // DEADLINE_EXCEEDED; UNAVAILABLE when the other side is gone or Shutdown was called, and all that
  // had come before is received; INVALID_ARGUMENT for a message that is longer, or has more
  // descriptors (all are closed).
  absl::StatusOr<HostMessage> Receive(std::chrono::milliseconds timeout);
  // Waits until the other side is gone, or speaks although nothing is awaited.
  void AwaitEnd();
  void Shutdown();
  int descriptor() const { return descriptor_; }

  static constexpr size_t kMostBytes = 4096;
  static constexpr size_t kMostDescriptors = 4;

 private:
  int descriptor_ = -1;
};

class HostListener {
 public:
  // Listens at the path, for this user alone (mode 0600); what lay there from a process that is
  // gone is replaced in one step. The file stays when this ends, so that who comes meanwhile learns
  // that nobody listens (UNAVAILABLE), not that there is nothing. FAILED_PRECONDITION: somebody
  // listens there, or what lies there is no socket; UNAVAILABLE: the system's reason.
  static absl::StatusOr<HostListener> Listen(const std::string& path);
  HostListener(HostListener&& other) noexcept;
  HostListener& operator=(HostListener&& other) noexcept;
  ~HostListener();

  // The next connection of this user or root (others are closed at once); nothing when the timeout
  // passed or there was none to take. Never blocks longer.
  std::optional<HostConnection> Accept(std::chrono::milliseconds timeout);
  int descriptor() const { return descriptor_; }
  const std::string& path() const { return path_; }

 private:
  explicit HostListener(int descriptor, std::string path);
  int descriptor_ = -1;
  std::string path_;
};

// Which running kernel this is: equal for processes that can share memory, whatever their names for
// hosts and files. /proc/sys/kernel/random/boot_id; empty when it cannot be read.
std::string HostId();

}  // namespace conclave::shm
