// conclave.v1.InferenceService over the frontend: the gateway's gRPC face.
//
// Calls begin on the server's I/O threads, prompts go through the prompt lanes, events come
// from the core thread. The frontend outlives the calls.
#pragma once

#include "services/gateway/frontend.h"
#include "shared/h2/server.h"

namespace conclave::gateway {

h2::Service InferenceService(Frontend* frontend);

}  // namespace conclave::gateway
