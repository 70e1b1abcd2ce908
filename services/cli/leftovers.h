// Processes of a cluster whose supervisor was killed: they go on without one, and hold the ports.
#pragma once

#include <string>

namespace conclave::cli {

// Ends the processes that the state file names and that still live, unless a supervisor lives:
// SIGTERM, and after some seconds SIGKILL. Returns how many there were.
int EndLeftovers(const std::string& state_dir);

}  // namespace conclave::cli
