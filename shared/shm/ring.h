// Records of bytes from one process to another through a ring in shared memory. A record lies in
// one piece, at a multiple of 64 bytes, is written in place, and is read in place until it is
// released.
//
// The memory holds a head that the writer moves, a tail that the reader moves, and the bytes. When
// all is released the writer begins at the front again, so that few short records stay in the
// processors' caches. Neither side trusts what the other wrote but for the records' contents:
// positions and lengths are checked each time. A writer and a reader are each used by one thread at
// a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::shm {

// Memory for a ring of `capacity` bytes (a multiple of 4096), to be all zero at first.
size_t RingBytes(size_t capacity);
// Of the longest record in a ring of this capacity: less than half of it, so that one always fits
// some time.
size_t LongestRecord(size_t capacity);

class RingWriter {
 public:
  // `memory`: RingBytes(capacity) bytes at a multiple of 64, which outlive this.
  explicit RingWriter(std::span<std::byte> memory);

  // Where the next record of exactly so many bytes (1 to LongestRecord) is to be written; empty
  // while there is no room. The reader then rings once it has released something (RoomWanted).
  // Without Commit nothing has happened. INTERNAL when the reader's position is none: the ring is
  // of no use any more.
  absl::StatusOr<std::span<std::byte>> Reserve(size_t bytes);
  // The reader sees it from now on.
  void Commit();

 private:
  // ... (yours)
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
  size_t num_held() const;

 private:
  // ... (yours)
};

}  // namespace conclave::shm
