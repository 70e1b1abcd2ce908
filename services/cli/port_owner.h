// Which process listens on a port of this machine, for error messages.
#pragma once

#include <string>

namespace conclave::cli {

// "PID 4102 (conclave-gateway)", or "a process that cannot be seen from here" (another user's, or
// one that ends), or empty when nobody listens.
std::string PortOwner(int port);

}  // namespace conclave::cli
