// Requests as bytes on their way to a gateway or to the echo: gRPC calls of their own, many on one
// `Session` stream, and HTTP.
//
// Thread-safe. Answers are looked at no further than to find their end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/status/statusor.h"
#include "conclave/v1/inference.pb.h"
#include "grpcpp/support/byte_buffer.h"
#include "services/cli/gateway_bench/load.h"
#include "shared/base/mutex.h"
#include "shared/rpc/channel.h"

namespace conclave::cli {

// One connection each, taken in turn by calls.
class Connections {
 public:
  Connections(const std::string& address, int32_t count);
  const rpc::Channel& Next() { return channels_[next_.fetch_add(1) % channels_.size()]; }

 private:
  std::vector<rpc::Channel> channels_;
  std::atomic<size_t> next_{0};
};

// InferenceService.Complete.
class CompleteSender {
 public:
  // `connections` outlives this.
  CompleteSender(Connections* connections, std::string api_key)
      : connections_(connections), authorization_("Bearer " + std::move(api_key)) {}
  // Cancels the calls that have not ended, and waits for them.
  ~CompleteSender();

  // `answered` gets the answer's bytes; may be null.
  using Answered = std::function<void(const grpc::ByteBuffer&)>;
  void Send(const grpc::ByteBuffer& request, std::chrono::milliseconds timeout, Answered answered,
            SentDone done);

 private:
  Connections* const connections_;
  const std::string authorization_;
  Mutex mutex_;
  CondVar changed_;
  std::unordered_set<grpc::ClientContext*> calls_ GUARDED_BY(mutex_);
  int64_t running_ GUARDED_BY(mutex_) = 0;  // until their callbacks have returned
};

// InferenceService.Session: with a message for each request and event, or with those that wait in
// one. Answers belong to requests in the order in which both came, which is so
// for requests that the cache answers; a request's answer ends with its usage or failure.
class SessionSender {
 public:
  SessionSender(const rpc::Channel& channel, const std::string& api_key, bool gather);
  // Ends the stream and waits for its end.
  ~SessionSender();

  // The request's id is set here.
  void Send(const v1::GenerateRequest& request, SentDone done);
  // All messages that came since the last call. Kept only if `keep_messages` was called.
  void KeepMessages();
  std::vector<grpc::ByteBuffer> TakeMessages();

 private:
  class Stream;
  const std::unique_ptr<Stream> stream_;
};

std::string BytesOf(const grpc::ByteBuffer& buffer);
grpc::ByteBuffer BufferOf(const std::string& bytes);
grpc::ByteBuffer BufferOf(const google::protobuf::MessageLite& message);

}  // namespace conclave::cli
