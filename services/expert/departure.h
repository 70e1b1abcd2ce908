// Decides when a worker that drains may leave the cluster.
//
// Pure: the worker tells it again and again what it sees, on its main thread. The experts move
// while the worker serves on; it may leave once no engine asks it for anything any more, or when
// waiting for that is of no use.
#pragma once

#include <cstdint>

#include "shared/base/clock.h"
#include "shared/placement/member.h"

namespace conclave::expert {

class Departure {
 public:
  struct Options {
    // With nobody to take its experts it serves until no frame has come for this long. No engine
    // needs it when none has been connected for this long.
    Duration quiet = std::chrono::seconds(1);
  };
  struct Observation {
    bool connected = false;  // to a controller
    placement::Handover handover = placement::Handover::kNone;
    int num_streams = 0;      // of engines
    uint64_t num_frames = 0;  // that have ever come
    bool busy = false;        // frames are in work
  };

  // Begins to count.
  Departure(const Options& options, TimePoint now)
      : options_(options), last_frame_(now), last_stream_(now) {}

  bool MayLeave(const Observation& seen, TimePoint now);

 private:
  const Options options_;
  uint64_t num_frames_ = 0;
  TimePoint last_frame_;
  TimePoint last_stream_;
};

}  // namespace conclave::expert
