// Frames both ways between an engine and a worker of one host, through shared memory: a ring of
// requests and a ring of results (shared/shm/ring.h), and the doorbell of whoever is to read.
//
// Thread-safe. Held as a shared_ptr, which received messages share: they lie in the ring until they
// are destroyed.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/base/mutex.h"
#include "shared/rpc/frame_buffer.h"
#include "shared/rpc/host_greeting.h"
#include "shared/rpc/received_message.h"
#include "shared/shm/ring.h"
#include "shared/shm/shared_doorbell.h"
#include "shared/shm/shared_memory.h"

namespace conclave::rpc {

class HostFrames : public std::enable_shared_from_this<HostFrames> {
 public:
  enum class Side { kEngine, kWorker };
  // Of the memory for both rings.
  static size_t MemoryBytes(const HostOffer& offer);
  // `memory` has MemoryBytes, `peer` is the other side's doorbell.
  HostFrames(Side side, const HostOffer& offer, shm::SharedMemory memory, shm::SharedDoorbell peer);

  // Takes the frame: it is in the ring, or goes there when there is room (Flush). An error, here
  // and below: the rings are of no use any more.
  absl::Status Send(OutgoingFrame frame) EXCLUDES(send_mutex_);
  // To be called when this side's doorbell rang.
  absl::Status Flush() EXCLUDES(send_mutex_);
  // Bytes taken that are not in the ring.
  size_t waiting_bytes() const EXCLUDES(send_mutex_);

  // The next frame, nothing while there is none.
  absl::StatusOr<std::optional<ReceivedMessage>> Receive() EXCLUDES(receive_mutex_);

 private:
  class Held;
  // False: there is no room.
  absl::StatusOr<bool> Write(const OutgoingFrame& frame) REQUIRES(send_mutex_);
  void Release(std::span<const std::byte> record) EXCLUDES(receive_mutex_);

  const shm::SharedMemory memory_;
  const shm::SharedDoorbell peer_;
  mutable Mutex send_mutex_;
  shm::RingWriter writer_ GUARDED_BY(send_mutex_);
  std::deque<OutgoingFrame> waiting_ GUARDED_BY(send_mutex_);
  size_t waiting_bytes_ GUARDED_BY(send_mutex_) = 0;
  Mutex receive_mutex_;
  shm::RingReader reader_ GUARDED_BY(receive_mutex_);
};

}  // namespace conclave::rpc
