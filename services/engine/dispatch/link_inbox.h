// What the workers' streams bring, on its way to the step thread: events that other threads push,
// and streams in shared memory that the waiting thread looks into itself, which saves a change of
// threads for each answer.
//
// Any thread pushes, adds and removes; one thread pops.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "shared/base/bounded_queue.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"
#include "shared/rpc/received_message.h"
#include "shared/rpc/row_frame.h"
#include "shared/shm/shared_doorbell.h"

namespace conclave::engine {

// A part of results, with the message its rows lie in.
struct ResultsPart {
  rpc::ParsedResults results;
  rpc::ReceivedMessage message;
};
// The stream ended: every call on it is lost.
struct StreamLost {
  absl::Status status;
};
struct LinkEvent {
  uint64_t stream = 0;  // which the call was sent on
  std::variant<ResultsPart, rpc::ErrorFrame, StreamLost> what;
};

// What has to be looked into, because nobody brings what it has.
class LinkSource {
 public:
  virtual ~LinkSource() = default;
  // Pushes what has come, and goes on with what could not be sent. Quick; any thread.
  virtual void Poll() = 0;
};

class LinkInbox {
 public:
  explicit LinkInbox(size_t capacity) : events_(capacity) {}

  // False, and the event is lost, when it is full.
  bool TryPush(LinkEvent event);
  // Waits for an event; nullopt when the timeout passed. Looks into the sources meanwhile.
  std::optional<LinkEvent> PopFor(Duration timeout);

  // The source's worker rings the doorbell when it has sent something.
  void Add(std::shared_ptr<LinkSource> source) EXCLUDES(mutex_);
  void Remove(const LinkSource* source) EXCLUDES(mutex_);
  const shm::SharedDoorbell& doorbell() const { return doorbell_; }

 private:
  void PollSources() EXCLUDES(mutex_);

  const shm::SharedDoorbell doorbell_{"conclave-engine-bell"};
  BoundedQueue<LinkEvent> events_;
  Mutex mutex_;
  std::vector<std::shared_ptr<LinkSource>> sources_ GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<LinkSource>> polled_;  // of the popping thread, kept for its memory
};

}  // namespace conclave::engine
