// The routes /livez, /readyz and /metrics, for the servers that have them: the ops server all, the
// gateway's API server the first two, which load balancers ask.
#pragma once

#include <functional>
#include <vector>

#include "shared/http/ops_server.h"
#include "shared/http/server.h"

namespace conclave::http {

// /livez and /readyz. `readiness` is called on a worker thread. The body of /readyz is
// {"ready":false,"missing":["..."]} with status 200 or 503.
std::vector<Server::Route> HealthRoutes(std::function<Readiness()> readiness);

// These and /metrics; `registry` outlives the server.
std::vector<Server::Route> OpsRoutes(const std::function<Readiness()>& readiness,
                                     metrics::Registry* registry);

}  // namespace conclave::http
