// InferenceService.Session: many requests on one stream, each with its own id and its own fate.
#pragma once

#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "services/gateway/frontend.h"

namespace conclave::gateway {

// Of v1::SessionRequest and v1::SessionEvent.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartSessionCall(
    Frontend* frontend, const grpc::CallbackServerContext& context);

}  // namespace conclave::gateway
