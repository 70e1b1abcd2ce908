// `conclave bench gateway`: measures what the gateway costs, and what its classes, tenants and
// cache are worth under load, on clusters of its own.
#pragma once

#include <string>
#include <vector>

#include "services/cli/command.h"

namespace conclave::cli {

struct GatewayBenchOptions {
  std::vector<std::string> rows;  // names; empty: all
  double seconds = 5;             // of each measurement
  int32_t streams = 10'000;       // of the row "streams"
  bool json = false;
};

// The rows, for --help.
std::string GatewayBenchRows();

// Returns the exit code: kExitFailed only if something could not be measured; a figure that is not
// reached is printed as such.
int RunGatewayBench(const Context& context, const GatewayBenchOptions& options);

}  // namespace conclave::cli
