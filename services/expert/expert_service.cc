#include "services/expert/expert_service.h"

#include <utility>

#include "shared/rpc/server.h"

namespace conclave::expert {

ExpertService::ExpertService(StreamContext context, rpc::ClusterSecret secret,
                             std::shared_ptr<const rpc::ClusterId> cluster)
    : context_(std::move(context)), secret_(std::move(secret)), cluster_(std::move(cluster)) {}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ExpertService::Dispatch(
    grpc::CallbackServerContext* context) {
  grpc::Status status = secret_.Check(*context);
  if (status.ok() && cluster_ != nullptr) status = cluster_->Check(*context);
  if (!status.ok()) return rpc::RefuseStream<grpc::ByteBuffer, grpc::ByteBuffer>(status);
  auto stream = std::make_shared<DispatchStream>(context_);
  stream->Start();
  return stream.get();  // keeps itself alive until it is done
}

}  // namespace conclave::expert
