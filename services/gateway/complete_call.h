// InferenceService.Complete: a generation in one answer.
#pragma once

#include <memory>

#include "services/gateway/frontend.h"
#include "shared/h2/server_call.h"

namespace conclave::gateway {

// The message is a v1::GenerateRequest, the answer a v1::CompleteResponse.
std::shared_ptr<h2::ServerCall> MakeCompleteCall(Frontend* frontend, const h2::CallStart& start);

}  // namespace conclave::gateway
