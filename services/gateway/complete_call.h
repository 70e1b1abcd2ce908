// InferenceService.Complete: a generation in one answer.
#pragma once

#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "services/gateway/frontend.h"

namespace conclave::gateway {

// `request` holds a v1::GenerateRequest; the answer is a v1::CompleteResponse. `response` lives
// until the reactor is finished, as gRPC promises.
grpc::ServerUnaryReactor* StartCompleteCall(Frontend* frontend,
                                            const grpc::CallbackServerContext& context,
                                            const grpc::ByteBuffer& request,
                                            grpc::ByteBuffer* response);

}  // namespace conclave::gateway
