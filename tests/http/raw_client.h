// A blocking TCP client for tests of HTTP servers: sends any bytes, and waits for an answer with a
// deadline.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

namespace conclave::http {

struct RawResponse {
  int status = 0;  // 0: the connection ended, or time ran out, before an answer was complete
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // chunked bodies put together
};

class RawClient {
 public:
  explicit RawClient(const std::string& address) {
    const size_t colon = address.rfind(':');
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + colon + 1)));
    inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
    fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0;
  }
  ~RawClient() { Close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return connected_; }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  void CloseSendingSide() { shutdown(fd_, SHUT_WR); }
  void ShrinkReceiveBuffer() {
    const int bytes = 4096;
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  }

  // False when the server has closed the connection.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

  // Reads until `text` has arrived, and returns everything up to and including it; empty when it
  // never came.
  std::string ReadUntil(std::string_view text) {
    size_t found;
    while ((found = input_.find(text)) == std::string::npos) {
      if (!Fill()) return "";
    }
    std::string taken = input_.substr(0, found + text.size());
    input_.erase(0, found + text.size());
    return taken;
  }

  // The next answer. `head`: it has no body, being the answer to HEAD.
  RawResponse ReadResponse(bool head = false) {
    RawResponse response;
    const std::string text = ReadUntil("\r\n\r\n");
    if (text.size() < 12) return response;
    for (size_t at = text.find("\r\n") + 2; at + 2 < text.size();) {
      const size_t end = text.find("\r\n", at);
      const size_t colon = text.find(':', at);
      std::string name = text.substr(at, colon - at);
      for (char& c : name) c = static_cast<char>(std::tolower(c));
      response.headers[name] = text.substr(colon + 2, end - colon - 2);
      at = end + 2;
    }
    const int status = std::atoi(text.c_str() + 9);
    if (head) {
      response.status = status;
      return response;
    }
    if (response.headers.count("transfer-encoding")) {
      for (;;) {
        const std::string size_line = ReadUntil("\r\n");
        if (size_line.empty()) return response;
        const size_t size = std::strtoul(size_line.c_str(), nullptr, 16);
        while (input_.size() < size + 2) {
          if (!Fill()) return response;
        }
        response.body += input_.substr(0, size);
        input_.erase(0, size + 2);
        if (size == 0) break;
      }
    } else if (response.headers.count("content-length")) {
      const size_t size = std::strtoul(response.headers["content-length"].c_str(), nullptr, 10);
      while (input_.size() < size) {
        if (!Fill()) return response;
      }
      response.body = input_.substr(0, size);
      input_.erase(0, size);
    } else {
      while (Fill()) {
      }
      response.body.swap(input_);
    }
    response.status = status;
    return response;
  }

  // Whether there is something to read, or an end, within the time.
  bool Readable(int timeout_ms) {
    pollfd poll_fd{.fd = fd_, .events = POLLIN, .revents = 0};
    return poll(&poll_fd, 1, timeout_ms) > 0;
  }

  // True when the server ends the connection within the deadline; what it sends until then is
  // dropped.
  bool WaitForClose() {
    while (Fill()) {
    }
    return ended_;
  }

 private:
  bool Fill() {
    pollfd poll_fd{.fd = fd_, .events = POLLIN, .revents = 0};
    if (poll(&poll_fd, 1, 10'000) <= 0) return false;
    char bytes[4096];
    const ssize_t count = recv(fd_, bytes, sizeof bytes, 0);
    if (count <= 0) {
      ended_ = true;
      return false;
    }
    input_.append(bytes, static_cast<size_t>(count));
    return true;
  }

  int fd_ = -1;
  bool connected_ = false;
  bool ended_ = false;
  std::string input_;
};

}  // namespace conclave::http
