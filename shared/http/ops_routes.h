// The routes /livez, /readyz and /metrics, for any server that has them: the ops server, and the
// gateway's API server.
#pragma once

#include <functional>
#include <vector>

#include "shared/http/ops_server.h"
#include "shared/http/server.h"

namespace conclave::http {

// `readiness` is called on a worker thread; `registry` outlives the server. The body of /readyz is
// {"ready":false,"missing":["..."]} with status 200 or 503.
std::vector<Server::Route> OpsRoutes(std::function<Readiness()> readiness,
                                     metrics::Registry* registry);

}  // namespace conclave::http
