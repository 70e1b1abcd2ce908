#include "shared/rpc/byte_buffer.h"

#include <memory>
#include <utility>
#include <vector>

#include "grpcpp/support/slice.h"

namespace conclave::rpc {

ReceivedMessage FromByteBuffer(const grpc::ByteBuffer& buffer) {
  // Never resized once it is filled: short slices hold their bytes inside.
  const auto slices = std::make_shared<std::vector<grpc::Slice>>();
  if (!buffer.Valid() || !buffer.Dump(slices.get()).ok()) slices->clear();
  std::vector<std::span<const std::byte>> pieces;
  pieces.reserve(slices->size());
  for (const grpc::Slice& slice : *slices) {
    pieces.emplace_back(reinterpret_cast<const std::byte*>(slice.begin()), slice.size());
  }
  return {ScatteredBytes(std::move(pieces)), slices};
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

}  // namespace conclave::rpc
