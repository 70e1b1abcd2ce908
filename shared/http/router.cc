#include "shared/http/router.h"

namespace conclave::http::internal {

namespace {

bool Matches(std::string_view pattern, std::string_view path) {
  if (pattern.ends_with("/*")) {
    const std::string_view prefix = pattern.substr(0, pattern.size() - 1);
    return path.size() > prefix.size() && path.starts_with(prefix);
  }
  return pattern == path;
}

}  // namespace

Router::Match Router::Find(std::string_view method, std::string_view path) const {
  Match match;
  for (const Server::Route& route : routes_) {
    if (!Matches(route.path, path)) continue;
    if (route.method == method) return {.route = &route, .allow = ""};
    if (!match.allow.empty()) match.allow += ", ";
    match.allow += route.method;
    if (route.method == "GET") match.allow += ", HEAD";
  }
  return match;
}

}  // namespace conclave::http::internal
