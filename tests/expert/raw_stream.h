// A client of ExpertService.Dispatch that sends whatever bytes a test likes, one operation at a
// time.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "shared/rpc/byte_buffer.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/row_frame.h"

namespace conclave::expert {

class RawStream {
 public:
  using Bytes = std::vector<std::byte>;

  explicit RawStream(const std::string& address, const rpc::ClusterSecret& secret = {})
      : channel_({.address = address, .secret = secret}), stub_(channel_.grpc()) {
    channel_.Prepare(&context_, std::chrono::seconds(20));
    stream_ = stub_.PrepareCall(&context_, "/conclave.v1.ExpertService/Dispatch", &queue_);
    stream_->StartCall(nullptr);
    Wait();
  }
  ~RawStream() {
    context_.TryCancel();
    if (!finished_) Finish();
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  bool Write(const Bytes& frame) {
    rpc::OutgoingFrame outgoing;
    outgoing.push_back(rpc::FrameBuffer::CopyOf(frame));
    stream_->Write(rpc::ToByteBuffer(std::move(outgoing)), nullptr);
    return Wait();
  }

  // The next frame, or nothing at the stream's end. Its rows are copied to `rows` if that is not
  // null.
  std::optional<rpc::ParsedFrame> Read(Bytes* rows = nullptr) {
    grpc::ByteBuffer buffer;
    stream_->Read(&buffer, nullptr);
    if (!Wait()) return std::nullopt;
    const rpc::ReceivedMessage message = rpc::FromByteBuffer(buffer);
    auto frame = rpc::ParseRowFrame(message.bytes());
    EXPECT_TRUE(frame.ok()) << frame.status();
    if (!frame.ok()) return std::nullopt;
    if (const auto* results = std::get_if<rpc::ParsedResults>(&*frame);
        results != nullptr && rows != nullptr) {
      rows->resize(message.bytes().size() - results->rows.offset);
      message.bytes().CopyTo(results->rows.offset, *rows);
    }
    return *std::move(frame);
  }

  grpc::Status Finish() {
    finished_ = true;
    grpc::Status status;
    stream_->Finish(&status, nullptr);
    Wait();
    return status;
  }

 private:
  bool Wait() {
    void* tag;
    bool ok = false;
    EXPECT_TRUE(queue_.Next(&tag, &ok));
    return ok;
  }

  const rpc::Channel channel_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  bool finished_ = false;
};

}  // namespace conclave::expert
