#include "services/cli/machine_bench/shared_memory_echo.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"
#include "shared/rpc/host_greeting.h"
#include "shared/rpc/received_message.h"
#include "shared/shm/shared_memory.h"

namespace conclave::cli {
namespace {

using std::chrono::steady_clock;

// A message that has not come back by then is lost.
constexpr std::chrono::seconds kPatience{10};

const rpc::HostOffer& Rings() {
  static const rpc::HostOffer rings = {.cluster = {},
                                       .secret = {},
                                       .worker = {},
                                       .request_ring_bytes = rpc::kLeastRingBytes,
                                       .result_ring_bytes = rpc::kLeastRingBytes};
  return rings;
}

// One side, with a mapping of its own of the rings and of the other side's doorbell.
absl::StatusOr<std::shared_ptr<rpc::HostFrames>> MakeSide(rpc::HostFrames::Side side,
                                                          const shm::SharedMemory& rings,
                                                          const shm::SharedDoorbell& peer) {
  ASSIGN_OR_RETURN(shm::SharedMemory memory,
                   shm::SharedMemory::Map(dup(rings.descriptor()), rings.bytes().size()));
  ASSIGN_OR_RETURN(shm::SharedDoorbell bell, shm::SharedDoorbell::Map(dup(peer.descriptor())));
  return std::make_shared<rpc::HostFrames>(side, Rings(), std::move(memory), std::move(bell));
}

// The next message; waits for it until `deadline`. nullopt: it does not come.
std::optional<rpc::ReceivedMessage> Await(rpc::HostFrames& frames, const shm::SharedDoorbell& bell,
                                          steady_clock::time_point deadline,
                                          const std::atomic<bool>& stopped) {
  while (!stopped) {
    const uint32_t seen = bell->Look();
    auto message = frames.Receive();
    if (!message.ok()) return std::nullopt;
    if (message->has_value()) return *std::move(message);
    const auto now = steady_clock::now();
    if (now >= deadline) return std::nullopt;
    bell->Wait(seen, deadline - now);
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SharedMemoryEcho>> SharedMemoryEcho::Start() {
  ASSIGN_OR_RETURN(
      const shm::SharedMemory rings,
      shm::SharedMemory::Create("conclave-bench", rpc::HostFrames::MemoryBytes(Rings())));
  std::unique_ptr<SharedMemoryEcho> echo(new SharedMemoryEcho);
  ASSIGN_OR_RETURN(echo->near_, MakeSide(rpc::HostFrames::Side::kEngine, rings, echo->far_bell_));
  ASSIGN_OR_RETURN(echo->far_, MakeSide(rpc::HostFrames::Side::kWorker, rings, echo->near_bell_));
  echo->thread_ = std::thread([own = echo.get()] { own->Run(); });
  return echo;
}

SharedMemoryEcho::~SharedMemoryEcho() {
  stopped_ = true;
  far_bell_->Ring();
  if (thread_.joinable()) thread_.join();
}

bool SharedMemoryEcho::RoundTrip(size_t bytes) {
  rpc::OutgoingFrame frame;
  frame.emplace_back(bytes);
  std::ranges::fill(frame.front().span(), std::byte{'x'});
  if (!near_->Send(std::move(frame)).ok()) return false;
  const auto answer = Await(*near_, near_bell_, steady_clock::now() + kPatience, stopped_);
  return answer && answer->bytes().size() == bytes;
}

void SharedMemoryEcho::Run() {
  SetThreadName("bench-echo");
  while (true) {
    const auto message = Await(*far_, far_bell_, steady_clock::time_point::max(), stopped_);
    if (!message) return;
    const size_t bytes = message->bytes().size();
    rpc::OutgoingFrame frame;
    frame.push_back(rpc::FrameBuffer::CopyOf({message->bytes().Contiguous(0, bytes), bytes}));
    if (!far_->Send(std::move(frame)).ok()) return;
  }
}

}  // namespace conclave::cli
