#include "shared/net/listen.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"

namespace conclave::net {
namespace {

constexpr std::string_view kUnixPrefix = "unix:";

struct FreeAddresses {
  void operator()(addrinfo* found) const { freeaddrinfo(found); }
};
using FoundAddresses = std::unique_ptr<addrinfo, FreeAddresses>;

// Null, and why in `*code`, when the name is not known.
FoundAddresses Find(const Address& address, int* code) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  *code = getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  return FoundAddresses(*code == 0 ? found : nullptr);
}

// -1, with errno set, when it cannot be.
int TryListen(const addrinfo& entry) {
  const int fd =
      socket(entry.ai_family, entry.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, entry.ai_protocol);
  if (fd < 0) return -1;
  const int one = 1, zero = 0;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  // [::] takes IPv4 as well, as gRPC's servers do.
  if (entry.ai_family == AF_INET6) {
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
  }
  if (bind(fd, entry.ai_addr, entry.ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

std::string WhyNotBound(const Address& address) {
  int code = 0;
  const FoundAddresses found = Find(address, &code);
  if (!found) {
    return absl::StrCat("host \"", address.host, "\" is not known (", gai_strerror(code), ")");
  }
  std::string reason = "the system refused it";
  for (const addrinfo* entry = found.get(); entry != nullptr; entry = entry->ai_next) {
    const int fd = TryListen(*entry);
    if (fd >= 0) {
      close(fd);
    } else if (errno == EADDRINUSE) {
      reason = absl::StrCat("port ", address.port, " is in use by another process");
    } else if (errno == EADDRNOTAVAIL) {
      reason = absl::StrCat("no network interface of this host has the address ", address.host);
    } else if (errno == EACCES) {
      reason = absl::StrCat("port ", address.port, " needs privileges (ports below 1024 do)");
    } else {
      reason = std::strerror(errno);
    }
  }
  return reason;
}

int PortOf(int descriptor) {
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  getsockname(descriptor, reinterpret_cast<sockaddr*>(&bound), &size);
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
}

int ListenOnPath(const std::string& path) {
  sockaddr_un address{};
  if (path.size() >= sizeof(address.sun_path)) return -1;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  struct stat old {};
  if (stat(path.c_str(), &old) == 0 && S_ISSOCK(old.st_mode)) unlink(path.c_str());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
      listen(fd, SOMAXCONN) == 0) {
    return fd;
  }
  close(fd);
  return -1;
}

}  // namespace

absl::StatusOr<std::optional<Address>> ParseListen(const ListenOptions& options) {
  if (options.paths && options.listen.starts_with(kUnixPrefix)) {
    if (options.listen.size() > kUnixPrefix.size()) return std::optional<Address>();
    return absl::InvalidArgumentError(
        absl::StrCat(options.setting, ": \"unix:\" has no path; write it as unix:/path"));
  }
  absl::StatusOr<Address> address = ParseAddress(options.listen);
  if (address.ok()) return std::optional<Address>(*std::move(address));
  return absl::InvalidArgumentError(absl::StrCat(options.setting, ": ", address.status().message(),
                                                 options.paths ? ", or as unix:/path" : ""));
}

absl::Status CannotListen(const ListenOptions& options, const std::optional<Address>& address) {
  return absl::UnavailableError(
      absl::StrCat(options.name, " cannot listen on ", options.listen, ": ",
                   address.has_value() ? WhyNotBound(*address) : "the socket cannot be made there",
                   "; stop the other process or choose another address with ", options.setting));
}

absl::StatusOr<Listener> Listen(const ListenOptions& options) {
  ASSIGN_OR_RETURN(const std::optional<Address> address, ParseListen(options));
  Listener listener;
  if (!address.has_value()) {
    listener.descriptor = ListenOnPath(options.listen.substr(kUnixPrefix.size()));
    listener.address = options.listen;
    listener.family = AF_UNIX;
    if (listener.descriptor < 0) return CannotListen(options, address);
    return listener;
  }
  int code = 0;
  const FoundAddresses found = Find(*address, &code);
  for (const int family : {AF_INET, AF_INET6}) {
    for (const addrinfo* entry = found.get(); entry != nullptr && listener.descriptor < 0;
         entry = entry->ai_next) {
      if (entry->ai_family != family) continue;
      listener.descriptor = TryListen(*entry);
      listener.family = family;
    }
  }
  if (listener.descriptor < 0) return CannotListen(options, address);
  listener.port = PortOf(listener.descriptor);
  listener.address = Address{address->host, listener.port}.ToString();
  return listener;
}

}  // namespace conclave::net
