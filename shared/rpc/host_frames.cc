#include "shared/rpc/host_frames.h"

#include <cstring>
#include <utility>

#include "shared/base/check.h"
#include "shared/base/status_macros.h"

namespace conclave::rpc {
namespace {

std::span<std::byte> RequestRing(const HostOffer& offer, const shm::SharedMemory& memory) {
  return memory.bytes().first(shm::RingBytes(offer.request_ring_bytes));
}

std::span<std::byte> ResultRing(const HostOffer& offer, const shm::SharedMemory& memory) {
  return memory.bytes().subspan(shm::RingBytes(offer.request_ring_bytes));
}

}  // namespace

// A record of the ring, until nobody reads it any more.
class HostFrames::Held {
 public:
  Held(std::shared_ptr<HostFrames> frames, std::span<const std::byte> record)
      : frames_(std::move(frames)), record_(record) {}
  ~Held() { frames_->Release(record_); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  const std::shared_ptr<HostFrames> frames_;
  const std::span<const std::byte> record_;
};

size_t HostFrames::MemoryBytes(const HostOffer& offer) {
  return shm::RingBytes(offer.request_ring_bytes) + shm::RingBytes(offer.result_ring_bytes);
}

HostFrames::HostFrames(Side side, const HostOffer& offer, shm::SharedMemory memory,
                       shm::SharedDoorbell peer)
    : memory_(std::move(memory)),
      peer_(std::move(peer)),
      writer_(side == Side::kEngine ? RequestRing(offer, memory_) : ResultRing(offer, memory_)),
      reader_(side == Side::kEngine ? ResultRing(offer, memory_) : RequestRing(offer, memory_)) {
  CONCLAVE_CHECK(memory_.bytes().size() == MemoryBytes(offer));
}

absl::StatusOr<bool> HostFrames::Write(const OutgoingFrame& frame) {
  ASSIGN_OR_RETURN(const std::span<std::byte> record, writer_.Reserve(FrameBytes(frame)));
  if (record.empty()) return false;
  std::byte* to = record.data();
  for (const FrameBuffer& piece : frame) {
    std::memcpy(to, piece.data.get(), piece.size);
    to += piece.size;
  }
  writer_.Commit();
  return true;
}

absl::Status HostFrames::Send(OutgoingFrame frame) {
  {
    MutexLock lock(send_mutex_);
    bool written = false;
    if (waiting_.empty()) {
      ASSIGN_OR_RETURN(written, Write(frame));
    }
    if (!written) {
      waiting_bytes_ += FrameBytes(frame);
      waiting_.push_back(std::move(frame));
      return absl::OkStatus();
    }
  }
  peer_->Ring();
  return absl::OkStatus();
}

absl::Status HostFrames::Flush() {
  bool any = false;
  {
    MutexLock lock(send_mutex_);
    while (!waiting_.empty()) {
      ASSIGN_OR_RETURN(const bool written, Write(waiting_.front()));
      if (!written) break;
      any = true;
      waiting_bytes_ -= FrameBytes(waiting_.front());
      waiting_.pop_front();
    }
  }
  if (any) peer_->Ring();
  return absl::OkStatus();
}

size_t HostFrames::waiting_bytes() const {
  MutexLock lock(send_mutex_);
  return waiting_bytes_;
}

absl::StatusOr<std::optional<ReceivedMessage>> HostFrames::Receive() {
  std::optional<std::span<const std::byte>> record;
  {
    MutexLock lock(receive_mutex_);
    ASSIGN_OR_RETURN(record, reader_.Next());
  }
  if (!record.has_value()) return std::nullopt;
  return ReceivedMessage(ScatteredBytes({*record}),
                         std::make_shared<Held>(shared_from_this(), *record));
}

void HostFrames::Release(std::span<const std::byte> record) {
  bool room_wanted;
  {
    MutexLock lock(receive_mutex_);
    room_wanted = reader_.Release(record);
  }
  if (room_wanted) peer_->Ring();
}

}  // namespace conclave::rpc
