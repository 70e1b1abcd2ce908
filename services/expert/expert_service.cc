#include "services/expert/expert_service.h"

#include <memory>
#include <utility>

#include "shared/rpc/server.h"

namespace conclave::expert {

ExpertService::ExpertService(StreamContext context, rpc::ClusterSecret secret)
    : context_(std::move(context)), secret_(std::move(secret)) {}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ExpertService::Dispatch(
    grpc::CallbackServerContext* context) {
  if (const grpc::Status status = secret_.Check(*context); !status.ok()) {
    return rpc::RefuseStream<grpc::ByteBuffer, grpc::ByteBuffer>(status);
  }
  auto stream = std::make_shared<DispatchStream>(context_);
  stream->Start();
  return stream.get();  // keeps itself alive until it is done
}

}  // namespace conclave::expert
