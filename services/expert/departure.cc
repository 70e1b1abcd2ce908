#include "services/expert/departure.h"

#include <utility>

namespace conclave::expert {

using placement::Handover;

bool Departure::MayLeave(const Observation& seen, TimePoint now) {
  if (std::exchange(num_frames_, seen.num_frames) != seen.num_frames || seen.busy)
    last_frame_ = now;
  if (!seen.connected) {
    return seen.num_streams == 0 || now - last_connected_ > options_.controller_patience;
  }
  last_connected_ = now;
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
