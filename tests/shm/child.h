// Another process for a test: a fork of this one, which runs one function and ends.
#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>

namespace conclave::testing {

class Child {
 public:
  // It ends with 0 when `run` says true. What fails in it is told by that alone.
  explicit Child(const std::function<bool()>& run) : id_(fork()) {
    if (id_ == 0) _exit(run() ? 0 : 1);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    Kill();
    Join();
  }

  void Kill() {
    if (id_ > 0) kill(id_, SIGKILL);
  }
  // As waitpid tells: 0 when all was well.
  int Join() {
    int status = -1;
    while (id_ > 0 && waitpid(id_, &status, 0) < 0 && errno == EINTR) {
    }
    id_ = -1;
    return status;
  }

 private:
  pid_t id_;
};

}  // namespace conclave::testing
