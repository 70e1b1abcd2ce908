// Where a sender's connections are served: on a thread of the loop's own, or, when it is polled, on
// the thread that sends.
//
// A polled loop never sleeps and wakes nobody, so that two cores carry one client and one server
// without a third thread that takes turns with them.
#pragma once

#include <thread>

#include "shared/net/asio.h"

namespace conclave::cli {

enum class Serving { kOwnThread, kPolled };

class ClientLoop {
 public:
  // `thread` names the own thread.
  ClientLoop(Serving serving, const char* thread) : serving_(serving), name_(thread) {}
  ~ClientLoop() { Stop(); }
  ClientLoop(const ClientLoop&) = delete;

  boost::asio::io_context& io() { return io_; }
  // From now on handlers run: the connections are made.
  void Start();
  // Serves what is ready; of a polled loop, on the thread that sends.
  void Poll() { io_.poll(); }
  // No handler runs afterwards.
  void Stop();

 private:
  boost::asio::io_context io_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{
      io_.get_executor()};
  const Serving serving_;
  const char* const name_;
  std::thread thread_;
};

}  // namespace conclave::cli
