// InferenceService.Session: many requests on one stream, each with its own id and its own fate.
#pragma once

#include "conclave/v1/inference.pb.h"
#include "grpcpp/support/server_callback.h"
#include "services/gateway/frontend.h"

namespace conclave::gateway {

grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionEvent>* StartSessionCall(
    Frontend* frontend, const grpc::CallbackServerContext& context);

}  // namespace conclave::gateway
