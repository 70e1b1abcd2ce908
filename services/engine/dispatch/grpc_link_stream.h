// A stream to a worker over gRPC.
#pragma once

#include <memory>

#include "services/engine/dispatch/link_stream.h"
#include "shared/rpc/channel.h"

namespace conclave::engine {

// `channel` outlives the stream. `presence` goes last, after all that refers to the channel.
std::shared_ptr<LinkStream> MakeGrpcLinkStream(uint64_t id, std::shared_ptr<LinkStreamOwner> owner,
                                               const rpc::Channel* channel,
                                               std::shared_ptr<const void> presence);

}  // namespace conclave::engine
