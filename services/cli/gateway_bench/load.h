// Sends one kind of request many times and keeps how long each took: a closed loop, which finds
// what can be reached, and an open one, which finds what requests see at a given rate.
//
// The open loop sends at intended times and counts from them, whatever became of the requests
// before, so that a server that stalls is not spared those that would have come meanwhile.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "shared/base/clock.h"

namespace conclave::cli {

// How a request ended. Called once, on any thread.
using SentDone = std::function<void(const absl::Status&)>;
// Starts a request and returns at once.
using Sender = std::function<void(SentDone)>;

inline Duration FromSeconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

struct LoadOptions {
  int32_t in_flight = 0;  // above 0: so many at once (closed loop)
  double rate = 0;        // else: requests a second, evenly spaced (open loop)
  Duration duration = std::chrono::seconds(1);
  // Of the open loop: called without a pause while the next request is not due, on the thread that
  // sends; for senders that are polled. Null: the thread sleeps.
  std::function<void()> poll = {};
  // How long answers are waited for after that; those that come later count as failed.
  Duration patience = std::chrono::seconds(20);
  const std::atomic<bool>* interrupted = nullptr;  // ends it early
};

struct LoadResult {
  int64_t sent = 0;
  int64_t answered = 0;  // inside the duration, well
  int64_t failed = 0;
  double seconds = 0;  // that `answered` took
  // Of all that were answered well, in the order of their ends; seconds.
  std::vector<double> latencies;
  std::vector<double> due;  // when each of them was due, from the load's start
  // Of those refused with RESOURCE_EXHAUSTED, which also count as failed.
  std::vector<double> refusals;
  absl::Status first_error;
  double rate() const { return seconds > 0 ? static_cast<double>(answered) / seconds : 0; }
};

// How many of them ended from `begin` to `end`.
int64_t EndedWithin(const LoadResult& result, double begin, double end);

// Returns when all requests have ended or patience has. `sender` may be called on any thread, also
// inside the callback of an earlier request.
LoadResult RunLoad(const LoadOptions& options, Sender sender);

}  // namespace conclave::cli
