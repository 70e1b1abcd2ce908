#include "shared/shm/ring.h"

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "shared/base/check.h"
#include "shared/base/status_macros.h"

namespace conclave::shm {

// The memory of a ring:
//
//   offset  bytes     what
//        0      8     head: where the next record will begin; all before is committed. The writer's
//        8      8     front: which position lies at the first byte of the records. The writer's: it
//                     becomes the head when all before that is released
//      128      8     tail: all before is released. The reader's
//      256      4     1: the writer waits for room. Set by the writer, cleared by the reader
//      384  capacity  records, each a header of 64 bytes and its own bytes, padded to 64
//
// 128 bytes apart, because processors fetch lines of 64 bytes by pairs.
struct RingControl {
  alignas(64) std::atomic<uint64_t> head;
  std::atomic<uint64_t> front;
  alignas(64) std::byte apart_from_head[64];
  alignas(64) std::atomic<uint64_t> tail;
  alignas(64) std::byte apart_from_tail[64];
  alignas(64) std::atomic<uint32_t> room_wanted;
  alignas(64) std::byte apart_from_room_wanted[64];
};
static_assert(sizeof(RingControl) == 384 && std::atomic<uint64_t>::is_always_lock_free);

namespace {

constexpr uint64_t kLine = 64;
constexpr uint64_t kHeaderBytes = kLine;
constexpr uint64_t kCapacityUnit = 4096;

// The first 8 bytes of a header, little-endian: u32 bytes of the record, u32 kind. The rest of the
// header is not used. None of the kinds is 0, so that memory which was never written is no record.
constexpr uint32_t kRecord = 1;
constexpr uint32_t kSkip = 2;  // of 0 bytes: the next record lies at the front

// One word, read once: the other process can change it at any time.
using Header = std::atomic<uint64_t>;
uint64_t MakeHeader(uint32_t kind, uint32_t length) { return uint64_t{kind} << 32 | length; }

// What a record takes of the ring.
uint64_t Footprint(uint64_t length) { return kHeaderBytes + (length + kLine - 1) / kLine * kLine; }

size_t CapacityOf(std::span<std::byte> memory) {
  CONCLAVE_CHECK(reinterpret_cast<uintptr_t>(memory.data()) % kLine == 0);
  CONCLAVE_CHECK(memory.size() > sizeof(RingControl));
  const size_t capacity = memory.size() - sizeof(RingControl);
  CONCLAVE_CHECK(capacity % kCapacityUnit == 0);
  return capacity;
}

}  // namespace

size_t RingBytes(size_t capacity) {
  CONCLAVE_CHECK(capacity > 0 && capacity % kCapacityUnit == 0);
  return sizeof(RingControl) + capacity;
}

size_t LongestRecord(size_t capacity) {
  return std::min<uint64_t>(capacity / 2 - kHeaderBytes, UINT32_MAX);
}

RingWriter::RingWriter(std::span<std::byte> memory)
    : control_(reinterpret_cast<RingControl*>(memory.data())),
      records_(memory.data() + sizeof(RingControl)),
      capacity_(CapacityOf(memory)) {}

absl::Status RingWriter::LookAtTail() {
  RETURN_IF_ERROR(broken_);
  const uint64_t tail = control_->tail.load();
  if (tail % kLine != 0 || tail - tail_ > head_ - tail_) {
    return broken_ = absl::InternalError(absl::StrCat(
               "shared ring of ", capacity_, " bytes: the reader says that all before ", tail,
               " is released, where a multiple of ", kLine, " from ", tail_, " to ", head_,
               " was expected; the other process is at fault"));
  }
  tail_ = tail;
  return absl::OkStatus();
}

std::optional<uint64_t> RingWriter::PlaceFor(uint64_t footprint) {
  if (head_ == tail_) front_ = head_;
  const uint64_t room = capacity_ - (head_ - tail_);
  const uint64_t until_end = capacity_ - OffsetOf(head_);
  if (footprint <= std::min(room, until_end)) return head_;
  if (until_end + footprint <= room) return head_ + until_end;
  return std::nullopt;
}

absl::StatusOr<std::span<std::byte>> RingWriter::Reserve(size_t bytes) {
  CONCLAVE_CHECK(bytes > 0 && bytes <= LongestRecord(capacity_));
  reserved_ = 0;
  const uint64_t footprint = Footprint(bytes);
  RETURN_IF_ERROR(LookAtTail());
  std::optional<uint64_t> place = PlaceFor(footprint);
  if (!place.has_value()) {
    // The flag before the tail here, the tail before the flag in Release, all in one order
    // (memory_order_seq_cst): either this sees the room, or the reader sees that it is wanted.
    control_->room_wanted.store(1);
    RETURN_IF_ERROR(LookAtTail());
    place = PlaceFor(footprint);
    if (!place.has_value()) return std::span<std::byte>();
    control_->room_wanted.store(0);
  }
  begin_ = *place;
  reserved_ = bytes;
  return std::span(records_ + OffsetOf(begin_) + kHeaderBytes, bytes);
}

void RingWriter::Commit() {
  CONCLAVE_CHECK(reserved_ > 0);
  const auto write = [&](uint64_t position, uint64_t header) {
    reinterpret_cast<Header*>(records_ + OffsetOf(position))
        ->store(header, std::memory_order_relaxed);
  };
  if (begin_ != head_) write(head_, MakeHeader(kSkip, 0));
  write(begin_, MakeHeader(kRecord, static_cast<uint32_t>(reserved_)));
  head_ = begin_ + Footprint(reserved_);
  reserved_ = 0;
  control_->front.store(front_, std::memory_order_relaxed);
  control_->head.store(head_, std::memory_order_release);
}

RingReader::RingReader(std::span<std::byte> memory)
    : control_(reinterpret_cast<RingControl*>(memory.data())),
      records_(memory.data() + sizeof(RingControl)),
      capacity_(CapacityOf(memory)) {}

absl::Status RingReader::Broken(const std::string& what) {
  return broken_ = absl::InternalError(absl::StrCat("shared ring of ", capacity_, " bytes: ", what,
                                                    "; the other process is at fault"));
}

absl::StatusOr<std::optional<std::span<const std::byte>>> RingReader::Next() {
  RETURN_IF_ERROR(broken_);
  if (next_ == head_) {
    const uint64_t head = control_->head.load(std::memory_order_acquire);
    if (head == head_) return std::nullopt;
    if (head % kLine != 0 || head - head_ > capacity_ - (head_ - tail_)) {
      return Broken(absl::StrCat("the writer says that all before ", head,
                                 " is committed, where a multiple of ", kLine, " from ", head_,
                                 " to ", tail_ + capacity_, " was expected"));
    }
    // It is another one only if all that the reader knew of was released; so it does not change
    // again before the reader has released what is new.
    const uint64_t front = control_->front.load(std::memory_order_relaxed);
    if (front != front_ && (front != next_ || tail_ != next_)) {
      return Broken(absl::StrCat("the writer says that ", front, " lies at the front, where ",
                                 front_, tail_ == next_ ? absl::StrCat(" or ", next_) : "",
                                 " was expected"));
    }
    front_ = front;
    head_ = head;
  }
  const auto read = [&](uint64_t position) {
    return reinterpret_cast<const Header*>(records_ + OffsetOf(position))
        ->load(std::memory_order_relaxed);
  };
  uint64_t begin = next_;
  uint64_t header = read(begin);
  uint64_t until_end = capacity_ - OffsetOf(begin);
  if (header == MakeHeader(kSkip, 0) && until_end < std::min(capacity_, head_ - begin)) {
    begin += until_end;
    until_end = capacity_;
    header = read(begin);
  }
  const uint64_t length = header & UINT32_MAX;
  if (header >> 32 != kRecord || length == 0 || length > LongestRecord(capacity_) ||
      Footprint(length) > std::min(until_end, head_ - begin)) {
    return Broken(absl::StrCat("what the writer left at ", begin, " of ", head_,
                               " is no record: kind ", header >> 32, ", ", length, " bytes"));
  }
  next_ = begin + Footprint(length);
  const std::byte* bytes = records_ + OffsetOf(begin) + kHeaderBytes;
  held_.push_back(Held{.bytes = bytes, .end = next_, .released = false});
  ++num_held_;
  return std::span(bytes, length);
}

bool RingReader::Release(std::span<const std::byte> record) {
  const auto held = std::find_if(held_.begin(), held_.end(), [&](const Held& each) {
    return each.bytes == record.data() && !each.released;
  });
  CONCLAVE_CHECK(held != held_.end());
  held->released = true;
  --num_held_;
  if (held != held_.begin()) return false;
  while (!held_.empty() && held_.front().released) {
    tail_ = held_.front().end;
    held_.pop_front();
  }
  control_->tail.store(tail_);
  // Looked at before it is changed, because that needs the line for this processor alone.
  return control_->room_wanted.load() != 0 && control_->room_wanted.exchange(0) != 0;
}

}  // namespace conclave::shm
