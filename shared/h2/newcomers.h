// The turns of connections of which nothing is known yet but what they send (no call of theirs has
// been worked on or answered), in a part of an I/O thread's time.
//
// A stranger's bytes cost what they cost before anything is known of who sends them, and a thousand
// new connections a second could cost more than all clients that are served. So what newcomers have
// sent is read in small pieces, one connection after the other, and all together take at most a
// share of the thread's time: a client that is being served hardly notices them. The first pieces
// of a connection mostly go before the later ones of others, so that one that sends a request does
// not wait for those that send much. (TLS handshakes are no turns: ServerOptions::max_handshakes.)
// Used on that thread alone.
#pragma once

#include <cstddef>
#include <functional>
#include <list>

#include "shared/h2/timers.h"
#include "shared/net/asio.h"

namespace conclave::h2 {

class Newcomers {
 public:
  // `share`: of the thread's time, above 0; from 1 on there is no bound. `io` and `timers` outlive
  // this.
  Newcomers(boost::asio::io_context* io, Timers* timers, double share);
  ~Newcomers();
  Newcomers(const Newcomers&) = delete;
  Newcomers& operator=(const Newcomers&) = delete;

  // A connection's place in the queue; leaves it when it is destroyed. At most one turn at a time.
  // May outlive the queue.
  class Place {
   public:
    explicit Place(Newcomers* newcomers) : newcomers_(*newcomers) {}
    ~Place() { Leave(); }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;

    // Calls `turn` once, later, when there is time for it; nothing to do while it waits for one.
    // `bytes_before`: what has been read of the connection.
    void Await(size_t bytes_before, std::function<void()> turn);
    void Leave();
    bool waits() const { return queue_ != nullptr; }

   private:
    friend class Newcomers;
    Newcomers& newcomers_;
    std::list<Place*>* queue_ = nullptr;  // null: it does not wait
    std::list<Place*>::iterator at_;
    std::function<void()> turn_;
  };

  // Of a connection that go first: a usual first request with what comes before it.
  static constexpr size_t kFirstBytes = 2 << 10;

 private:
  void Schedule();
  void RunTurns();
  std::list<Place*>& Next();
  bool empty() const { return first_.empty() && later_.empty(); }

  boost::asio::io_context* const io_;
  Timers* const timers_;
  const double share_;
  std::list<Place*> first_, later_;
  int first_in_a_row_ = 0;  // turns of first_ since one of later_
  bool scheduled_ = false;
  Timers::Handle pause_;
  Duration left_;  // of their time; below zero when a turn took longer
  TimePoint counted_;
};

}  // namespace conclave::h2
