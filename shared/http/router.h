// Which handler serves a method and a path. Immutable after start; pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "shared/http/server.h"

namespace conclave::http::internal {

class Router {
 public:
  explicit Router(std::vector<Server::Route> routes) : routes_(std::move(routes)) {}

  struct Match {
    const Server::Route* route = nullptr;
    std::string
        allow;  // when the path is known but the method is not: methods for the Allow header
  };
  Match Find(std::string_view method, std::string_view path) const;

 private:
  const std::vector<Server::Route> routes_;
};

}  // namespace conclave::http::internal
