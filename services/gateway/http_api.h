// The gateway's HTTP face: OpenAI's endpoints, vLLM's /tokenize and /detokenize, and /livez and
// /readyz. docs/openai.md is its contract.
//
// Handlers run on the HTTP server's worker threads; what they do with long bodies, on the prompt
// lane.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "services/gateway/frontend.h"
#include "shared/base/clock.h"
#include "shared/http/server.h"

namespace conclave::gateway {

struct HttpApiOptions {
  Duration heartbeat_period =
      std::chrono::seconds(10);  // between SSE comments while nothing else is sent
};

// http::ServerOptions::check_sender: whoever shows no valid key may send no large body.
std::optional<http::Response> CheckSender(const Frontend& frontend, std::string_view authorization);

// The frontend outlives the server that has these routes.
std::vector<http::Server::Route> HttpRoutes(Frontend* frontend, const HttpApiOptions& options);

}  // namespace conclave::gateway
