// Processes of a cluster whose supervisor was killed: they go on without one, and hold the ports.
#pragma once

#include <string>

namespace conclave::cli {

struct Leftovers {
  int ended = 0;      // how many processes there were
  std::string drain;  // as DescribeDrain says what the gateway found running
};

// Ends the processes that the state file names and that still live, unless a supervisor lives: as
// the supervisor would, the gateway first, each kind with the cluster's drain time as grace before
// SIGKILL.
Leftovers EndLeftovers(const std::string& state_dir);

}  // namespace conclave::cli
