// What both kinds of host socket need of the system. Functions and values; any thread.
#pragma once

#include <chrono>
#include <string>

namespace conclave::shm {

// A descriptor for the time of a call, whose end leaves errno as it is.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor();
  int get() const { return value_; }
  int Release();  // the caller's from now on

 private:
  int value_;
};

// A SOCK_SEQPACKET that is closed on exec and does not block; -1 with errno.
int MakeSocket();
// Such a socket, connected to the path; -1 with errno. Never blocks. A socket's own address takes
// 107 bytes, so the file is opened, and addressed by its descriptor.
int ConnectTo(const std::string& path);
// Binds it to a short name in the folder, for this user alone (mode 0600). False: errno says why.
bool BindIn(int folder, const std::string& name, int socket);
// Whether the process at the other end is this user's or root's, and whose it is.
bool PeerIsTrusted(int socket, std::string* whose);

// Waits for `events` (poll) until the deadline. False when it passed.
class Deadline {
 public:
  explicit Deadline(std::chrono::milliseconds timeout);
  bool Await(int descriptor, short events) const;
  // Nothing can be done before it passes.
  void AwaitEnd() const;

 private:
  int RemainingMs() const;
  std::chrono::steady_clock::time_point end_;
};

}  // namespace conclave::shm
