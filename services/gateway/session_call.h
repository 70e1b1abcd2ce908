// InferenceService.Session: many generations on one stream. It ends at its first message if the
// client has no good key; what goes wrong later ends one generation.
#pragma once

#include <memory>

#include "services/gateway/frontend.h"
#include "shared/h2/server_call.h"

namespace conclave::gateway {

std::shared_ptr<h2::ServerCall> MakeSessionCall(Frontend* frontend, const h2::CallStart& start);

}  // namespace conclave::gateway
