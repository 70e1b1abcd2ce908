// Between EngineService's messages and the gateway's values.
#pragma once

#include <vector>

#include "conclave/v1/engine.pb.h"
#include "services/gateway/engine_link.h"

namespace conclave::gateway {

void ToProto(const SequenceStart& start, v1::StartSequence* message);
EngineIdentity FromProto(const v1::EngineHello& hello);
// Events of sequences; a hello is left out.
std::vector<SequenceEvent> FromProto(const v1::EngineEvents& events);

v1::FinishReason ToProto(FinishReason reason);

}  // namespace conclave::gateway
