// Which process listens on a port of this machine, for error messages.
#pragma once

#include <string>

namespace conclave::cli {

// "PID 4102 (conclave-gateway)", or "another user's process" when it cannot be seen, or empty when
// nobody listens.
std::string PortOwner(int port);

}  // namespace conclave::cli
