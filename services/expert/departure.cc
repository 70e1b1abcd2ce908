#include "services/expert/departure.h"

#include <utility>

namespace conclave::expert {

using placement::Handover;

bool Departure::MayLeave(const Observation& seen, TimePoint now) {
  if (std::exchange(num_frames_, seen.num_frames) != seen.num_frames || seen.busy)
    last_frame_ = now;
  if (seen.num_streams > 0) last_stream_ = now;
  // A controller that is away may come back; it is of no use when no engine is there.
  if (!seen.connected) return seen.num_streams == 0;
  if (now - last_stream_ > options_.quiet) return true;
  switch (seen.handover) {
    case Handover::kDone:
      return true;
    case Handover::kNoTaker:
      return seen.num_streams == 0 || now - last_frame_ > options_.quiet;
    case Handover::kNone:
    case Handover::kMoving:
    case Handover::kNoRoom:
      return false;
  }
  return false;
}

}  // namespace conclave::expert
