// A real service for the tests of servers and channels: InferenceService with methods that echo
// sizes, hold streams open and record who called.
#pragma once

#include <set>
#include <string>

#include "conclave/v1/inference.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "shared/base/mutex.h"
#include "shared/rpc/cluster_id.h"
#include "shared/rpc/cluster_secret.h"
#include "shared/rpc/server.h"

namespace conclave::rpc {

class ProbeService final : public v1::InferenceService::CallbackService {
 public:
  explicit ProbeService(ClusterSecret secret = {},
                        std::shared_ptr<const ClusterId> cluster = std::make_shared<ClusterId>())
      : secret_(std::move(secret)), cluster_(std::move(cluster)) {}

  // Answers the length of the text as max_context.
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    {
      MutexLock lock(mutex_);
      ++calls_;
      peers_.insert(context->peer());
    }
    auto* reactor = context->DefaultReactor();
    grpc::Status status = secret_.Check(*context);
    if (status.ok()) status = cluster_->Check(*context);
    if (!status.ok()) {
      reactor->Finish(status);
      return reactor;
    }
    response->set_max_context(static_cast<int64_t>(request->text().size()));
    reactor->Finish(request->text() == "fail"
                        ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "as asked")
                        : grpc::Status::OK);
    return reactor;
  }

  // Answers a text of ids[0] bytes.
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    response->set_text(std::string(request->ids(0), 'x'));
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  // Ends when the client closes its side or the call is cancelled; with a secret, refuses those who
  // do not show it.
  grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionEvent>* Session(
      grpc::CallbackServerContext* context) override {
    if (const grpc::Status status = secret_.Check(*context); !status.ok()) {
      return RefuseStream<v1::SessionRequest, v1::SessionEvent>(status);
    }
    class Held final : public grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionEvent> {
     public:
      Held() {
        StartSendInitialMetadata();
        StartRead(&request_);
      }
      void OnReadDone(bool ok) override {
        if (ok) {
          StartRead(&request_);
        } else {
          Finish(grpc::Status::OK);
        }
      }
      void OnDone() override { delete this; }

     private:
      v1::SessionRequest request_;
    };
    return new Held;
  }

  int calls() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return calls_;
  }
  size_t num_peers() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return peers_.size();
  }

 private:
  const ClusterSecret secret_;
  const std::shared_ptr<const ClusterId> cluster_;
  Mutex mutex_;
  int calls_ GUARDED_BY(mutex_) = 0;
  std::set<std::string> peers_ GUARDED_BY(mutex_);
};

// One Tokenize call of `text`.
inline grpc::Status CallTokenize(const std::shared_ptr<grpc::Channel>& channel,
                                 grpc::ClientContext* context, const std::string& text,
                                 v1::TokenizeResponse* response = nullptr) {
  v1::TokenizeResponse unused;
  v1::TokenizeRequest request;
  request.set_text(text);
  return v1::InferenceService::NewStub(channel)->Tokenize(context, request,
                                                          response != nullptr ? response : &unused);
}

}  // namespace conclave::rpc
