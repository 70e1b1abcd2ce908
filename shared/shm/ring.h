// Records of bytes from one process to another through a ring in shared memory. A record lies in
// one piece, at a multiple of 64 bytes, is written in place, and is read in place until it is
// released.
//
// The memory holds a head that the writer moves, a tail that the reader moves, and the bytes. When
// all is released the writer begins at the front again, so that few short records stay in the
// processors' caches, and all the room is in one piece. Neither side trusts what the other wrote
// but for the records' contents: positions and lengths are checked each time. A writer and a reader
// are each used by one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::shm {

// Memory for a ring of `capacity` bytes (a multiple of 4096), to be all zero at first.
size_t RingBytes(size_t capacity);
// Of the longest record in a ring of this capacity: less than half of it, so that one always fits
// some time.
size_t LongestRecord(size_t capacity);

struct RingControl;  // both sides' positions, as they lie in the memory

class RingWriter {
 public:
  // `memory`: RingBytes(capacity) bytes at a multiple of 64, which outlive this.
  explicit RingWriter(std::span<std::byte> memory);

  // Where the next record of exactly so many bytes (1 to LongestRecord) is to be written; empty
  // while there is no room. The reader's Release then says so once it has given some back, and the
  // writer is to be rung and to try again. Without Commit nothing has happened. INTERNAL when the
  // reader's position is none: the ring is of no use any more.
  absl::StatusOr<std::span<std::byte>> Reserve(size_t bytes);
  // The reader sees what was reserved last from now on.
  void Commit();

 private:
  absl::Status LookAtTail();
  // Where a record that takes so many bytes with its header can begin: at head_, or where the rest
  // until the end of the memory is skipped.
  std::optional<uint64_t> PlaceFor(uint64_t footprint);
  uint64_t OffsetOf(uint64_t position) const { return (position - front_) % capacity_; }

  // Positions count all bytes since the beginning.
  RingControl* control_;
  std::byte* records_;
  uint64_t capacity_;
  uint64_t head_ = 0;      // all before is committed
  uint64_t tail_ = 0;      // all before was released when last looked
  uint64_t front_ = 0;     // lies at the first byte of the records; not after tail_
  uint64_t begin_ = 0;     // where the reserved record begins
  size_t reserved_ = 0;    // its bytes; 0: nothing is reserved
  absl::Status broken_{};  // once not OK, for ever
};

class RingReader {
 public:
  explicit RingReader(std::span<std::byte> memory);

  // The next record, or nothing while there is none. INTERNAL when what the writer left is no
  // record: the ring is of no use any more.
  absl::StatusOr<std::optional<std::span<const std::byte>>> Next();
  // Gives a record's memory back, in any order. True: the writer waits for room, and is to be rung.
  bool Release(std::span<const std::byte> record);
  // Records read and not released.
  size_t num_held() const { return num_held_; }

 private:
  struct Held {
    const std::byte* bytes;
    uint64_t end;  // where what comes after the record begins
    bool released;
  };
  absl::Status Broken(const std::string& what);
  uint64_t OffsetOf(uint64_t position) const { return (position - front_) % capacity_; }

  RingControl* control_;
  const std::byte* records_;
  uint64_t capacity_;
  uint64_t tail_ = 0;        // all before is released
  uint64_t next_ = 0;        // all before is read
  uint64_t head_ = 0;        // all before was committed when last looked
  uint64_t front_ = 0;       // lies at the first byte of the records; not after tail_
  std::deque<Held> held_{};  // [tail_, next_), in their order in the ring
  size_t num_held_ = 0;      // of those, not released
  absl::Status broken_{};    // once not OK, for ever
};

}  // namespace conclave::shm
