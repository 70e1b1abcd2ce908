#include "shared/rpc/byte_buffer.h"

#include <utility>

namespace conclave::rpc {

ReceivedMessage::ReceivedMessage(const grpc::ByteBuffer& buffer) {
  if (!buffer.Valid() || !buffer.Dump(&slices_).ok()) slices_.clear();
  std::vector<std::span<const std::byte>> pieces;
  pieces.reserve(slices_.size());
  for (const grpc::Slice& slice : slices_) {
    pieces.emplace_back(reinterpret_cast<const std::byte*>(slice.begin()), slice.size());
  }
  bytes_ = ScatteredBytes(std::move(pieces));
}

grpc::ByteBuffer ToByteBuffer(OutgoingFrame frame) {
  std::vector<grpc::Slice> slices;
  slices.reserve(frame.size());
  for (FrameBuffer& piece : frame) {
    std::byte* data = piece.data.release();
    slices.emplace_back(
        data, piece.size, [](void* owned) { delete[] static_cast<std::byte*>(owned); }, data);
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

size_t FrameBytes(const OutgoingFrame& frame) {
  size_t bytes = 0;
  for (const FrameBuffer& piece : frame) bytes += piece.size;
  return bytes;
}

}  // namespace conclave::rpc
