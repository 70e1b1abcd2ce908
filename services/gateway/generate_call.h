// InferenceService.Generate: a generation as a stream of events.
#pragma once

#include <memory>

#include "services/gateway/frontend.h"
#include "shared/h2/server_call.h"

namespace conclave::gateway {

// The message is a v1::GenerateRequest, the answers v1::GenerateEvents.
std::shared_ptr<h2::ServerCall> MakeGenerateCall(Frontend* frontend, const h2::CallStart& start);

}  // namespace conclave::gateway
