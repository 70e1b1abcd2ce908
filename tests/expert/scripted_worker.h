// A worker that answers as a test tells it: a real gRPC server whose frames are made by hand.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "conclave/v1/expert.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "shared/base/mutex.h"
#include "shared/rpc/byte_buffer.h"
#include "shared/rpc/row_frame.h"
#include "shared/rpc/server.h"

namespace conclave::expert {

class ScriptedWorker final
    : public v1::ExpertService::WithRawCallbackMethod_Dispatch<v1::ExpertService::Service> {
 public:
  // Called for each frame of a stream, on a gRPC thread; returns the frames to answer with.
  using Script = std::function<std::vector<std::vector<std::byte>>(const rpc::ParsedFrame&)>;

  explicit ScriptedWorker(Script script) : script_(std::move(script)) {
    grpc::Service* const services[] = {this};
    auto server = rpc::Server::Start({.name = "scripted", .listen = "127.0.0.1:0"}, services);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  ~ScriptedWorker() override { server_ = nullptr; }

  const std::string& address() const { return server_->address(); }
  int num_streams() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return num_streams_;
  }
  int num_cancelled() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return num_cancelled_;
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Dispatch(
      grpc::CallbackServerContext*) override {
    {
      MutexLock lock(mutex_);
      ++num_streams_;
    }
    return new Stream(this);
  }

 private:
  // Reads one frame, writes its answers, reads the next.
  class Stream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
   public:
    explicit Stream(ScriptedWorker* worker) : worker_(worker) {
      StartSendInitialMetadata();
      StartRead(&read_);
    }
    void OnReadDone(bool ok) override {
      if (!ok) {
        Finish(grpc::Status::OK);
        return;
      }
      const rpc::ReceivedMessage message = rpc::FromByteBuffer(read_);
      const auto frame = rpc::ParseRowFrame(message.bytes());
      ASSERT_TRUE(frame.ok()) << frame.status();
      answers_ = worker_->script_(*frame);
      next_ = 0;
      WriteOrRead();
    }
    void OnWriteDone(bool ok) override {
      if (ok) {
        WriteOrRead();
      } else {
        Finish(grpc::Status::OK);
      }
    }
    void OnCancel() override {
      MutexLock lock(worker_->mutex_);
      ++worker_->num_cancelled_;
    }
    void OnDone() override { delete this; }

   private:
    void WriteOrRead() {
      if (next_ == answers_.size()) {
        StartRead(&read_);
        return;
      }
      rpc::OutgoingFrame frame;
      frame.push_back(rpc::FrameBuffer::CopyOf(answers_[next_++]));
      written_ = rpc::ToByteBuffer(std::move(frame));
      StartWrite(&written_);
    }

    ScriptedWorker* const worker_;
    grpc::ByteBuffer read_, written_;
    std::vector<std::vector<std::byte>> answers_;
    size_t next_ = 0;
  };

  const Script script_;
  Mutex mutex_;
  int num_streams_ GUARDED_BY(mutex_) = 0;
  int num_cancelled_ GUARDED_BY(mutex_) = 0;
  std::unique_ptr<rpc::Server> server_;
};

}  // namespace conclave::expert
