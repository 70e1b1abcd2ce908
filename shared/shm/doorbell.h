// Where one thread waits until another one, of this process or of another on the host, rings: an
// event count on a futex.
//
// Lies in memory that the processes share; all zero is its first state. Look, then look at
// everything that could be there to do, then Wait with what Look said: a ring in between is never
// lost. One thread waits at a time; any may ring.
#pragma once

#include <atomic>
#include <cstdint>

#include "shared/base/clock.h"

namespace conclave::shm {

class alignas(64) Doorbell {
 public:
  uint32_t Look() const;
  // Without a system call while nobody waits. Who is killed in the midst of it may leave the waiter
  // asleep until its patience is over.
  void Ring();
  // Returns at once when somebody rang since Look() gave `seen`; false when the patience is over,
  // or somewhat earlier. Whatever others write to this memory, it waits no longer than that.
  bool Wait(uint32_t seen, Duration patience);

 private:
  // Bit 0: somebody waits. Above it the number of rings, modulo 2^31. In one word, so that a change
  // of either ends a wait that is about to begin.
  std::atomic<uint32_t> word_{0};
};
static_assert(sizeof(Doorbell) == 64 && std::atomic<uint32_t>::is_always_lock_free);

}  // namespace conclave::shm
