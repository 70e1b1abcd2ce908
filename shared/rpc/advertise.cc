#include "shared/rpc/advertise.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "shared/base/address.h"
#include "shared/base/status_macros.h"

namespace conclave::rpc {
namespace {

bool IsWildcard(const std::string& host) { return host == "0.0.0.0" || host == "::"; }

// The local address that packets to `peer` would leave from; empty if there is none. Nothing is
// sent.
std::string LocalHostTowards(const Address& peer) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(peer.host.c_str(), std::to_string(peer.port).c_str(), &hints, &found) != 0)
    return "";
  std::string host;
  for (const addrinfo* entry = found; entry != nullptr && host.empty(); entry = entry->ai_next) {
    const int fd = socket(entry->ai_family, entry->ai_socktype | SOCK_CLOEXEC, entry->ai_protocol);
    if (fd < 0) continue;
    sockaddr_storage local{};
    socklen_t bytes = sizeof(local);
    char text[NI_MAXHOST];
    if (connect(fd, entry->ai_addr, entry->ai_addrlen) == 0 &&
        getsockname(fd, reinterpret_cast<sockaddr*>(&local), &bytes) == 0 &&
        getnameinfo(reinterpret_cast<sockaddr*>(&local), bytes, text, sizeof(text), nullptr, 0,
                    NI_NUMERICHOST) == 0) {
      host = text;
    }
    close(fd);
  }
  freeaddrinfo(found);
  return host;
}

}  // namespace

absl::StatusOr<std::string> AdvertisedAddress(const std::string& bound,
                                              const std::string& advertise,
                                              const std::string& controller) {
  if (bound.starts_with("unix:")) return bound;
  ASSIGN_OR_RETURN(Address address, ParseAddress(bound));
  if (!advertise.empty()) {
    address.host = advertise;
  } else if (IsWildcard(address.host)) {
    ASSIGN_OR_RETURN(const Address peer, ParseAddress(controller));
    address.host = LocalHostTowards(peer);
    if (address.host.empty()) {
      return absl::UnavailableError(
          absl::StrCat("no address of this host leads to the controller ", controller,
                       "; set advertise to the host name that other hosts reach this one by"));
    }
  }
  return address.ToString();
}

}  // namespace conclave::rpc
