// Frames as gRPC carries them: conversion to and from grpc::ByteBuffer without copying.
//
// Functions; any thread.
#pragma once

#include "grpcpp/support/byte_buffer.h"
#include "shared/rpc/frame_buffer.h"
#include "shared/rpc/received_message.h"

namespace conclave::rpc {

// Takes the buffer's slices. A buffer that cannot be read counts as empty.
ReceivedMessage FromByteBuffer(const grpc::ByteBuffer& buffer);

// Hands the pieces to gRPC, which frees them when they have been sent.
grpc::ByteBuffer ToByteBuffer(OutgoingFrame frame);

}  // namespace conclave::rpc
