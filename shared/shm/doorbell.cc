#include "shared/shm/doorbell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace conclave::shm {
namespace {

constexpr uint32_t kWaiting = 1;
constexpr uint32_t kOneRing = 2;

// The futex calls are the shared ones (no FUTEX_PRIVATE_FLAG): the other side is another process.
uint32_t* FutexWord(std::atomic<uint32_t>& word) { return reinterpret_cast<uint32_t*>(&word); }

}  // namespace

// What was written before a ring that this sees is seen by what is read after it.
uint32_t Doorbell::Look() const { return word_.load(std::memory_order_acquire) & ~kWaiting; }

void Doorbell::Ring() {
  if ((word_.fetch_add(kOneRing) & kWaiting) == 0) return;
  // Cleared by who wakes, so that the rings until the waiter runs make no system call.
  word_.fetch_and(~kWaiting);
  syscall(SYS_futex, FutexWord(word_), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

bool Doorbell::Wait(uint32_t seen, Duration patience) {
  if (Look() != seen) return true;
  if (patience <= Duration::zero()) return false;
  // A ring before this changed the count; a ring after it finds the bit, and changes the word that
  // the kernel compares before it lets this thread sleep.
  if ((word_.fetch_or(kWaiting) & ~kWaiting) == seen) {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(patience);
    const timespec timeout = {.tv_sec = static_cast<time_t>(seconds.count()),
                              .tv_nsec = static_cast<long>((patience - seconds).count())};
    syscall(SYS_futex, FutexWord(word_), FUTEX_WAIT, seen | kWaiting, &timeout, nullptr, 0);
  }
  return (word_.fetch_and(~kWaiting) & ~kWaiting) != seen;
}

}  // namespace conclave::shm
