// conclave.v1.InferenceService over the frontend: the gateway's gRPC face.
//
// Callback API over raw bytes (wire_message.h): methods run on gRPC's threads, long prompts on the
// prompt lane, events come from the core thread.
// The service outlives its server's calls, and the frontend outlives the service.
#pragma once

#include <memory>

#include "grpcpp/impl/codegen/service_type.h"
#include "services/gateway/frontend.h"

namespace conclave::gateway {

std::unique_ptr<grpc::Service> MakeInferenceService(Frontend* frontend);

}  // namespace conclave::gateway
