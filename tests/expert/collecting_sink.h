// Stands for an engine's stream: keeps what is sent, for tests of the compute thread's parts.
#pragma once

#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "services/expert/pending_frame.h"
#include "shared/base/mutex.h"
#include "shared/rpc/row_frame.h"

namespace conclave::expert {

class CollectingSink final : public AnswerSink {
 public:
  struct Part {
    std::vector<std::byte> bytes;
    rpc::ParsedResults results;
  };

  void Send(rpc::OutgoingFrame frame) override {
    Part part;
    for (rpc::FrameBuffer& piece : frame) {
      part.bytes.insert(part.bytes.end(), piece.span().begin(), piece.span().end());
    }
    auto parsed = rpc::ParseRowFrame(rpc::ScatteredBytes({std::span<const std::byte>(part.bytes)}));
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    part.results = std::get<rpc::ParsedResults>(*std::move(parsed));
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    MutexLock lock(mutex_);
    while (held_ && changed_.WaitUntil(mutex_, deadline)) {
    }
    parts_.push_back(std::move(part));
    changed_.NotifyAll();
  }
  void RequestTaken(size_t) override {}
  void RequestDone(size_t request_bytes) override {
    MutexLock lock(mutex_);
    done_bytes_ += request_bytes;
    ++num_done_;
    changed_.NotifyAll();
  }

  // Until Release, whoever sends waits (at most 20 s).
  void Hold() {
    MutexLock lock(mutex_);
    held_ = true;
  }
  void Release() {
    MutexLock lock(mutex_);
    held_ = false;
    changed_.NotifyAll();
  }

  // Waits until so many requests are done; all parts so far.
  std::vector<Part> WaitForDone(int count) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    MutexLock lock(mutex_);
    while (num_done_ < count && changed_.WaitUntil(mutex_, deadline)) {
    }
    EXPECT_EQ(num_done_, count);
    return parts_;
  }
  std::vector<Part> parts() {
    MutexLock lock(mutex_);
    return parts_;
  }
  size_t done_bytes() {
    MutexLock lock(mutex_);
    return done_bytes_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool held_ GUARDED_BY(mutex_) = false;
  std::vector<Part> parts_ GUARDED_BY(mutex_);
  size_t done_bytes_ GUARDED_BY(mutex_) = 0;
  int num_done_ GUARDED_BY(mutex_) = 0;
};

}  // namespace conclave::expert
