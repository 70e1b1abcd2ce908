// Frames as gRPC carries them: conversion to and from grpc::ByteBuffer without copying.
//
// Values; a message may be read on any thread.
#pragma once

#include <cstddef>
#include <vector>

#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/slice.h"
#include "shared/rpc/frame_buffer.h"
#include "shared/rpc/row_frame.h"

namespace conclave::rpc {

// A received message: keeps the slices alive that the bytes lie in.
class ReceivedMessage {
 public:
  ReceivedMessage() = default;
  // Takes the buffer's slices. A buffer that cannot be read counts as empty.
  explicit ReceivedMessage(const grpc::ByteBuffer& buffer);
  ReceivedMessage(ReceivedMessage&&) = default;
  ReceivedMessage& operator=(ReceivedMessage&&) = default;

  const ScatteredBytes& bytes() const { return bytes_; }

 private:
  std::vector<grpc::Slice>
      slices_;  // never resized after construction: short slices hold their bytes inside
  ScatteredBytes bytes_;
};

// Hands the pieces to gRPC, which frees them when they have been sent.
grpc::ByteBuffer ToByteBuffer(OutgoingFrame frame);
size_t FrameBytes(const OutgoingFrame& frame);

}  // namespace conclave::rpc
