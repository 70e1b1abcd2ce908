// A bound on what many connections hold together, such as bytes of bodies that are arriving. When
// there is no room, whoever has held some for the longest gives way: a client that takes its time
// cannot keep others out.
//
// Used on one thread alone, a server's for I/O.
#pragma once

#include <cstddef>
#include <functional>
#include <list>

namespace conclave::net {

class Room {
 public:
  explicit Room(size_t capacity) : capacity_(capacity) {}
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;

  // Holds nothing at first, and until its end what it held last. The room outlives it.
  class Holder {
   public:
    // `give_way` is called at most once, from another holder's Hold; its share is free from then.
    Holder(Room* room, std::function<void()> give_way);
    ~Holder();
    Holder(const Holder&) = delete;
    Holder& operator=(const Holder&) = delete;

    // False: it has to give way itself, now or since another one wanted room.
    bool Hold(size_t amount);

   private:
    friend class Room;
    Room* const room_;
    const std::function<void()> give_way_;
    size_t held_ = 0;
    bool gone_ = false;
    std::list<Holder*>::iterator at_;
  };

  size_t held() const { return held_; }

 private:
  void Remove(Holder& holder);

  const size_t capacity_;
  size_t held_ = 0;
  std::list<Holder*> holders_;  // the oldest first
};

}  // namespace conclave::net
