// Bytes of a frame on its way out: owned, and not zeroed first, because they are about to be
// written.
//
// A value; knows nothing of gRPC.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace conclave::rpc {

struct FrameBuffer {
  std::unique_ptr<std::byte[]> data;  // [size]
  size_t size = 0;

  FrameBuffer() = default;
  explicit FrameBuffer(size_t bytes) : data(new std::byte[bytes]), size(bytes) {}
  static FrameBuffer CopyOf(std::span<const std::byte> bytes) {
    FrameBuffer copy(bytes.size());
    std::copy(bytes.begin(), bytes.end(), copy.data.get());
    return copy;
  }

  std::span<std::byte> span() { return {data.get(), size}; }
};

// One frame in pieces, in order.
using OutgoingFrame = std::vector<FrameBuffer>;

inline size_t FrameBytes(const OutgoingFrame& frame) {
  size_t bytes = 0;
  for (const FrameBuffer& piece : frame) bytes += piece.size;
  return bytes;
}

}  // namespace conclave::rpc
