#include "shared/base/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

constexpr int kPortsTried = 200;

absl::Status BadAddress(std::string_view text, std::string_view reason) {
  return absl::InvalidArgumentError(absl::StrCat("\"", std::string(text),
                                                 "\" is not an address: ", std::string(reason),
                                                 "; write it as 127.0.0.1:8000 or [::1]:8000"));
}

}  // namespace

std::string Address::ToString() const {
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port)
                                             : absl::StrCat("[", host, "]:", port);
}

absl::StatusOr<Address> ParseAddress(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return BadAddress(text, "the port is missing");
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find_first_of(":[]") != std::string_view::npos) {
    return BadAddress(text, "an IPv6 host needs brackets");
  }
  if (host.empty()) return BadAddress(text, "the host is missing");
  if (host.find_first_of(" /\t\n") != std::string_view::npos) {
    return BadAddress(text, "the host has a space or a slash");
  }
  Address address{std::string(host), 0};
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (error != std::errc() || end != port.data() + port.size() || address.port < 0 ||
      address.port > 65535) {
    return BadAddress(text, "the port is not a number from 0 to 65535");
  }
  return address;
}

bool IsLoopback(std::string_view host) {
  if (host == "localhost") return true;
  const std::string text(host);
  in_addr v4{};
  if (inet_pton(AF_INET, text.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, text.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

bool PortIsFree(const Address& address) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const std::string port = absl::StrCat(address.port);
  if (getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found) != 0) return false;
  bool free = true;
  for (const addrinfo* entry = found; entry != nullptr && free; entry = entry->ai_next) {
    const int fd = socket(entry->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;  // the machine has no IPv6, say
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    free = bind(fd, entry->ai_addr, entry->ai_addrlen) == 0 && listen(fd, 1) == 0;
    close(fd);
  }
  freeaddrinfo(found);
  return free;
}

absl::StatusOr<int> NearestFreePort(Address address) {
  const int first = address.port;
  for (; address.port < first + kPortsTried && address.port <= 65535; ++address.port) {
    if (PortIsFree(address)) return address.port;
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      "none of the ports ", first, " to ", address.port - 1, " on ", address.host, " is free"));
}

}  // namespace conclave
