// The gRPC side of EngineLink: one EngineService.Connect stream to one engine, opened again
// whenever it breaks.
//
// Any thread. gRPC's threads call the listener.
#pragma once

#include <memory>
#include <string>

#include "services/gateway/engine_link.h"
#include "shared/rpc/channel.h"

namespace conclave::gateway {

// `gateway_name`: how this gateway introduces itself. The listener outlives the link.
std::unique_ptr<EngineLink> MakeEngineClient(const rpc::ChannelOptions& channel,
                                             std::string gateway_name, std::string engine_name,
                                             EngineListener* listener);

}  // namespace conclave::gateway
