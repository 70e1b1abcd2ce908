// Where a request's prompt is made into ids, by the size of the request: the least at once on the
// calling thread, short ones on threads that they share with other short ones only, long ones one
// after the other behind everything else that the machine does.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "services/gateway/prompt_lane.h"

namespace conclave::gateway {

// All of a request, before it is parsed. At worst (digits in a chat) the bundled model's tokenizer
// takes 0.45 ms for so much on a 2-core development box; for words 0.16 ms.
inline constexpr size_t kQuickPromptBytes = 1 << 10;
// The same: 8 ms, and 2.5 ms.
inline constexpr size_t kShortPromptBytes = 16 << 10;

class PromptLanes {
 public:
  // Whether an I/O thread may do the work itself: `bytes` are those of all that it takes in at
  // once.
  static bool IsQuick(size_t bytes) { return bytes <= kQuickPromptBytes; }

  // At once if it is quick, else in a lane: see PromptLane::Work.
  void Run(PromptLane::Work work) {
    if (IsQuick(work.bytes)) {
      work.run(absl::OkStatus());
    } else {
      Queue(std::move(work));
    }
  }
  // In a lane, however little it is: as a part of more.
  void Queue(PromptLane::Work work) {
    (work.bytes <= kShortPromptBytes ? short_ : long_).Run(std::move(work));
  }
  // As PromptLane's.
  void Sweep() {
    short_.Sweep();
    long_.Sweep();
  }
  void Stop() {
    short_.Stop();
    long_.Stop();
  }

 private:
  // A third of an ordinary thread's share of a busy core.
  static constexpr int kLongNice = 5;

  PromptLane short_{{.thread_name = "prompt-short", .num_threads = 2}};
  PromptLane long_{{.thread_name = "prompt-long", .num_threads = 1, .nice = kLongNice}};
};

}  // namespace conclave::gateway
