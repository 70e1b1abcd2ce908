#include "shared/net/room.h"

#include <utility>

namespace conclave::net {

Room::Holder::Holder(Room* room, std::function<void()> give_way)
    : room_(room), give_way_(std::move(give_way)) {
  at_ = room_->holders_.insert(room_->holders_.end(), this);
}

Room::Holder::~Holder() {
  if (!gone_) room_->Remove(*this);
}

bool Room::Holder::Hold(size_t amount) {
  if (gone_) return false;
  room_->held_ += amount - held_;
  held_ = amount;
  while (room_->held_ > room_->capacity_) {
    Holder& oldest = *room_->holders_.front();
    room_->Remove(oldest);
    if (&oldest == this) return false;
    oldest.give_way_();
  }
  return true;
}

void Room::Remove(Holder& holder) {
  held_ -= holder.held_;
  holders_.erase(holder.at_);
  holder.gone_ = true;
}

}  // namespace conclave::net
