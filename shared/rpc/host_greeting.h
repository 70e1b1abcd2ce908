// How an engine and a worker of one host agree on shared memory (docs/wire-format.md, "On one
// host"): one message each over a Unix socket, before any frame.
//
// Pure functions and values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::rpc {

inline constexpr uint16_t kHostGreetingVersion = 1;
// Of a ring: the longest frame fits twice and some, and a worker maps no more than it is worth.
inline constexpr uint64_t kLeastRingBytes = uint64_t{4} << 20;
inline constexpr uint64_t kMostRingBytes = uint64_t{256} << 20;
// Descriptors that come with the messages, in order.
inline constexpr size_t kOfferDescriptors = 2;   // both rings; the engine's doorbell
inline constexpr size_t kAnswerDescriptors = 1;  // the worker's doorbell, if it agrees

// The engine's.
struct HostOffer {
  std::string cluster = {};  // as ClusterId knows it; empty: not yet
  std::string secret = {};   // ClusterSecret::token()
  std::string worker = {};   // whom it wants to speak with: "expert-0"
  // Capacities, multiples of 4096; in the memory the ring of requests lies before that of results.
  uint64_t request_ring_bytes = 0;
  uint64_t result_ring_bytes = 0;
};
// The worker's: OK, or why not.
struct HostAnswer {
  absl::Status status;
};

// Texts are cut to 1024 bytes.
std::vector<std::byte> EncodeOffer(const HostOffer& offer);
std::vector<std::byte> EncodeAnswer(const HostAnswer& answer);
// INVALID_ARGUMENT names the field, what was found, and what was wanted.
absl::StatusOr<HostOffer> ParseOffer(std::span<const std::byte> message);
absl::StatusOr<HostAnswer> ParseAnswer(std::span<const std::byte> message);

}  // namespace conclave::rpc
