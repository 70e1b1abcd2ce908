// ExpertService.Dispatch: accepts engines' streams of binary frames.
//
// The method is declared in expert.proto for reflection, and served raw, because row frames are not
// protobuf.
#pragma once

#include "conclave/v1/expert.grpc.pb.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "services/expert/dispatch_stream.h"
#include "shared/rpc/cluster_secret.h"

namespace conclave::expert {

class ExpertService final
    : public v1::ExpertService::WithRawCallbackMethod_Dispatch<v1::ExpertService::Service> {
 public:
  // What `context` points to outlives the service and its server.
  ExpertService(StreamContext context, rpc::ClusterSecret secret);

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Dispatch(
      grpc::CallbackServerContext* context) override;

 private:
  const StreamContext context_;
  const rpc::ClusterSecret secret_;
};

}  // namespace conclave::expert
