// A thread that sends every message back, reached through shared memory as an expert worker is by
// an engine of its host: the same rings and doorbells, in one process.
//
// Used by one thread, besides its own.
#pragma once

#include <atomic>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "shared/rpc/frame_buffer.h"
#include "shared/rpc/host_frames.h"
#include "shared/shm/shared_doorbell.h"

namespace conclave::cli {

class SharedMemoryEcho {
 public:
  // Errors of shm::SharedMemory::Create.
  static absl::StatusOr<std::unique_ptr<SharedMemoryEcho>> Start();
  ~SharedMemoryEcho();
  SharedMemoryEcho(const SharedMemoryEcho&) = delete;
  SharedMemoryEcho& operator=(const SharedMemoryEcho&) = delete;

  // Sends so many bytes and waits until they are back; false when they do not come, or others.
  bool RoundTrip(size_t bytes);

 private:
  SharedMemoryEcho() = default;
  void Run();

  const shm::SharedDoorbell near_bell_{"conclave-bench-bell"}, far_bell_{"conclave-bench-bell"};
  std::shared_ptr<rpc::HostFrames> near_, far_;
  std::atomic<bool> stopped_{false};
  std::thread thread_;
};

}  // namespace conclave::cli
