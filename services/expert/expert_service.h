// ExpertService.Dispatch: accepts engines' streams of binary frames.
//
// The method is declared in expert.proto for reflection, and served raw, because row frames are not
// protobuf.
#pragma once

#include <memory>

#include "conclave/v1/expert.grpc.pb.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "services/expert/dispatch_stream.h"
#include "shared/rpc/cluster_id.h"
#include "shared/rpc/cluster_secret.h"

namespace conclave::expert {

class ExpertService final
    : public v1::ExpertService::WithRawCallbackMethod_Dispatch<v1::ExpertService::Service> {
 public:
  // What `context` points to outlives the service and its server. Engines of another cluster are
  // refused; `cluster` may be null.
  ExpertService(StreamContext context, rpc::ClusterSecret secret,
                std::shared_ptr<const rpc::ClusterId> cluster = nullptr);

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Dispatch(
      grpc::CallbackServerContext* context) override;

 private:
  const StreamContext context_;
  const rpc::ClusterSecret secret_;
  const std::shared_ptr<const rpc::ClusterId> cluster_;
};

}  // namespace conclave::expert
