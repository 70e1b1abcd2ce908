#include "shared/base/http_get.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "shared/base/address.h"
#include "shared/base/status_macros.h"

namespace conclave {
namespace {

constexpr size_t kMostBytes = 4 << 20;

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace

absl::StatusOr<HttpAnswer> HttpGet(const std::string& address, const std::string& path,
                                   std::chrono::milliseconds timeout) {
  ASSIGN_OR_RETURN(const Address parsed, ParseAddress(address));
  const auto unavailable = [&](const char* reason) {
    return absl::UnavailableError(absl::StrCat("http://", address, path, ": ", reason));
  };
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(parsed.host.c_str(), std::to_string(parsed.port).c_str(), &hints, &found) != 0) {
    return unavailable("the host is not known");
  }
  const Socket socket(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval limit = {static_cast<time_t>(timeout.count() / 1000),
                         static_cast<suseconds_t>(timeout.count() % 1000 * 1000)};
  setsockopt(socket.fd(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(socket.fd(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  const bool connected = connect(socket.fd(), found->ai_addr, found->ai_addrlen) == 0;
  freeaddrinfo(found);
  if (!connected) return unavailable(std::strerror(errno));

  const std::string request =
      absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: ", address, "\r\nConnection: close\r\n\r\n");
  if (send(socket.fd(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return unavailable("the connection was closed");
  }
  std::string text;
  char buffer[4096];
  ssize_t count = 0;
  while (text.size() < kMostBytes && (count = recv(socket.fd(), buffer, sizeof(buffer), 0)) > 0) {
    text.append(buffer, static_cast<size_t>(count));
  }
  const size_t body = text.find("\r\n\r\n");
  if (!absl::StartsWith(text, "HTTP/1.") || body == std::string::npos || text.size() < 12) {
    return unavailable(count < 0 ? "no answer in time" : "the answer is not HTTP");
  }
  return HttpAnswer{std::atoi(text.c_str() + 9), text.substr(body + 4)};
}

}  // namespace conclave
