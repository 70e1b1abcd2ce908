// InferenceService.Complete: a generation in one answer.
#pragma once

#include "conclave/v1/inference.pb.h"
#include "grpcpp/support/server_callback.h"
#include "services/gateway/frontend.h"

namespace conclave::gateway {

// `response` lives until the reactor is finished, as gRPC promises.
grpc::ServerUnaryReactor* StartCompleteCall(Frontend* frontend,
                                            const grpc::CallbackServerContext& context,
                                            const v1::GenerateRequest& request,
                                            v1::CompleteResponse* response);

}  // namespace conclave::gateway
