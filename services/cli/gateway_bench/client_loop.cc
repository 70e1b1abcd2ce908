#include "services/cli/gateway_bench/client_loop.h"

#include "shared/base/thread_name.h"

namespace conclave::cli {

void ClientLoop::Start() {
  if (serving_ == Serving::kPolled) return;
  thread_ = std::thread([this] {
    SetThreadName(name_);
    io_.run();
  });
}

void ClientLoop::Stop() {
  work_.reset();
  io_.stop();
  if (thread_.joinable()) thread_.join();
}

}  // namespace conclave::cli
