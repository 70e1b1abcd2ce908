// `conclave bench serve`: chats against a gateway, and what their clients see.
//
// Closed loop: so many clients, each of which sends its next request when the last is answered.
// Open loop: chats begin at a rate, whatever becomes of those before; times count from when a chat
// was due.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "services/cli/command.h"
#include "services/cli/generation.h"

namespace conclave::cli {

struct ServeBenchOptions {
  std::string gateway;        // host:port; empty: the cluster that runs here
  int clients = 8;            // closed loop: at once
  double chats_a_second = 0;  // open loop; 0: closed
  int requests = 64;          // in all; the last chat may end early
  int turns = 1;              // requests of a chat, each with all that was said before
  std::string system;         // a system message that all chats begin with; empty: none
  std::vector<std::string> prompts = {"Tell me a story."};  // taken in turn
  bool raw = false;  // prompts are completed as they are; then turns is 1, system is empty
  Parameters parameters;
  // Goodput: what is answered with its first token, and the mean of the others, within so many ms.
  std::optional<double> first_token_ms, per_token_ms;
  bool json = false;
};

// Measures, prints, and returns the exit code.
int RunServeBench(const Context& context, const ServeBenchOptions& options);

}  // namespace conclave::cli
