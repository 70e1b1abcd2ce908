#include "shared/h2/newcomers.h"

#include <algorithm>
#include <utility>

#include "shared/base/check.h"

namespace conclave::h2 {
namespace {

// Before the connections of others have their turn.
constexpr int kMostTurns = 4;
// Of those that go first, before one of the others.
constexpr int kMostFirst = 3;
// What they may take at once after a quiet time, and what they may owe at most: a long turn is no
// reason to keep all out for long.
constexpr Duration kBurst = std::chrono::milliseconds(20);
// Shorter pauses would cost more than they save.
constexpr Duration kLeastPause = std::chrono::milliseconds(1);

}  // namespace

Newcomers::Newcomers(boost::asio::io_context* io, Timers* timers, double share)
    : io_(io),
      timers_(timers),
      share_(share),
      left_(kBurst),
      counted_(std::chrono::steady_clock::now()) {
  CONCLAVE_CHECK(share > 0);
}

Newcomers::~Newcomers() {
  for (std::list<Place*>* queue : {&first_, &later_}) {
    while (!queue->empty()) queue->front()->Leave();
  }
}

void Newcomers::Place::Await(size_t bytes_before, std::function<void()> turn) {
  if (waits()) return;
  queue_ = bytes_before < kFirstBytes ? &newcomers_.first_ : &newcomers_.later_;
  at_ = queue_->insert(queue_->end(), this);
  turn_ = std::move(turn);
  if (!newcomers_.pause_.set()) newcomers_.Schedule();
}

void Newcomers::Place::Leave() {
  if (!waits()) return;
  queue_->erase(at_);
  queue_ = nullptr;
  turn_ = nullptr;
}

void Newcomers::Schedule() {
  if (std::exchange(scheduled_, true)) return;
  boost::asio::post(*io_, [this] {
    scheduled_ = false;
    RunTurns();
  });
}

std::list<Newcomers::Place*>& Newcomers::Next() {
  const bool later = first_.empty() || (first_in_a_row_ >= kMostFirst && !later_.empty());
  first_in_a_row_ = later ? 0 : first_in_a_row_ + 1;
  return later ? later_ : first_;
}

void Newcomers::RunTurns() {
  TimePoint now = std::chrono::steady_clock::now();
  left_ = std::min<Duration>(
      kBurst, left_ + std::chrono::duration_cast<Duration>((now - counted_) * share_));
  counted_ = now;
  for (int i = 0; i < kMostTurns && !empty(); ++i) {
    if (left_ <= Duration::zero() && share_ < 1) {
      const auto pause = std::chrono::duration_cast<Duration>(-left_ / share_);
      timers_->Set(&pause_, now + std::max(pause, kLeastPause), [this] { RunTurns(); });
      return;
    }
    Place& place = *Next().front();
    const std::function<void()> turn = std::move(place.turn_);
    place.Leave();
    turn();
    const TimePoint then = std::chrono::steady_clock::now();
    left_ = std::max<Duration>(left_ - (then - now), -kBurst);
    now = then;
  }
  if (!empty()) Schedule();
}

}  // namespace conclave::h2
