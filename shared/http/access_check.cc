#include "shared/http/access_check.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace conclave::http {

namespace {

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

// Host header values are echoed in the error: only what may be in one, and not too much of it.
std::string Shown(std::string_view text) {
  std::string shown;
  for (const char c : text.substr(0, 100)) shown.push_back(absl::ascii_isgraph(c) ? c : '?');
  return shown;
}

bool IsLoopbackAddress(const std::string& host) {
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6;
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
  return false;
}

bool SameAddress(const std::string& host, std::string_view local) {
  const std::string address(local);
  in6_addr a;
  in6_addr b;
  if (inet_pton(AF_INET6, host.c_str(), &a) == 1 && inet_pton(AF_INET6, address.c_str(), &b) == 1) {
    return std::memcmp(&a, &b, sizeof a) == 0;
  }
  return host == address;
}

// "*.example.org" is any name of one label more, as in certificates; another name is itself.
bool IsName(std::string_view host, std::string_view name) {
  if (!name.starts_with("*.")) return host == name;
  const size_t dot = host.find('.');
  return dot != std::string_view::npos && dot > 0 && host.substr(dot) == name.substr(1);
}

}  // namespace

std::optional<std::string> HostWithoutPort(std::string_view text) {
  std::string_view host = text;
  std::string_view port;
  if (!text.empty() && text.front() == '[') {
    const size_t end = text.find(']');
    if (end == std::string_view::npos) return std::nullopt;
    host = text.substr(1, end - 1);
    port = text.substr(end + 1);
  } else if (const size_t colon = text.find(':'); colon != std::string_view::npos) {
    host = text.substr(0, colon);
    port = text.substr(colon);
  }
  if (host.empty() || host.size() > 255) return std::nullopt;
  if (!port.empty() && (port.front() != ':' || port.size() > 6 ||
                        !std::all_of(port.begin() + 1, port.end(), absl::ascii_isdigit))) {
    return std::nullopt;
  }
  for (const char c : host) {
    if (!absl::ascii_isalnum(c) && c != '.' && c != '-' && c != '_' && c != ':')
      return std::nullopt;
  }
  return absl::AsciiStrToLower(View(host));
}

absl::Status CheckAccess(const AccessQuery& query, const AccessPolicy& policy) {
  if (query.host) {
    const std::optional<std::string> host = HostWithoutPort(*query.host);
    if (!host) {
      return absl::InvalidArgumentError(
          absl::StrCat("header Host is \"", Shown(*query.host), "\", which is not host[:port]"));
    }
    const bool allowed = *host == "localhost" || absl::EndsWith(*host, ".localhost") ||
                         IsLoopbackAddress(*host) || SameAddress(*host, query.local_address) ||
                         std::any_of(policy.allowed_hosts.begin(), policy.allowed_hosts.end(),
                                     [&](const std::string& name) { return IsName(*host, name); });
    if (!allowed) {
      return absl::PermissionDeniedError(absl::StrCat(
          "header Host is \"", Shown(*query.host), "\", which is not a name of this server; use ",
          View(query.local_address), " or add the name to allowed_hosts"));
    }
  }
  if (query.origin) {
    const std::string own =
        query.host ? absl::StrCat(query.tls ? "https://" : "http://", View(*query.host)) : "";
    if (own.empty() || !absl::EqualsIgnoreCase(View(*query.origin), own)) {
      return absl::PermissionDeniedError(
          absl::StrCat("header Origin is \"", Shown(*query.origin),
                       "\": requests from pages of other sites are refused"));
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave::http
