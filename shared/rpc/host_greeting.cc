#include "shared/rpc/host_greeting.h"

#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"

namespace conclave::rpc {
namespace {

constexpr uint32_t kMagic = 0x4C484E43;  // "CNHL" in memory
constexpr size_t kMostText = 1024;
constexpr uint64_t kRingUnit = 4096;

// Every message.
constexpr size_t kMagicAt = 0;    // u32
constexpr size_t kVersionAt = 4;  // u16
// Offer.
constexpr size_t kClusterBytesAt = 6;  // u16
constexpr size_t kWorkerBytesAt = 8;   // u16
constexpr size_t kSecretBytesAt = 10;  // u16
constexpr size_t kRequestRingAt = 16;  // u64
constexpr size_t kResultRingAt = 24;   // u64
constexpr size_t kOfferBytes = 32;
// Answer.
constexpr size_t kCodeAt = 6;       // u16
constexpr size_t kTextBytesAt = 8;  // u16
constexpr size_t kAnswerBytes = 16;

template <typename T>
void Store(std::vector<std::byte>& bytes, size_t at, T value) {
  std::memcpy(&bytes[at], &value, sizeof(T));
}

template <typename T>
T Load(std::span<const std::byte> bytes, size_t at) {
  T value;
  std::memcpy(&value, &bytes[at], sizeof(T));
  return value;
}

std::string_view Cut(std::string_view text) { return text.substr(0, kMostText); }

std::vector<std::byte> Begin(size_t bytes) {
  std::vector<std::byte> message(bytes);
  Store<uint32_t>(message, kMagicAt, kMagic);
  Store<uint16_t>(message, kVersionAt, kHostGreetingVersion);
  return message;
}

void StoreText(std::vector<std::byte>& message, size_t at, std::string_view text) {
  if (!text.empty()) std::memcpy(message.data() + at, text.data(), text.size());
}

std::string TextAt(std::span<const std::byte> message, size_t at, size_t bytes) {
  return {reinterpret_cast<const char*>(message.data()) + at, bytes};
}

absl::Status Wrong(std::string_view field, uint64_t found, std::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat("host greeting: ", std::string(field), " is ",
                                                 found, ", wanted ", std::string(wanted)));
}

absl::Status CheckStart(std::span<const std::byte> message, size_t least) {
  if (message.size() < least)
    return Wrong("length", message.size(), absl::StrCat(least, " bytes or more"));
  if (Load<uint32_t>(message, kMagicAt) != kMagic)
    return Wrong("magic", Load<uint32_t>(message, kMagicAt), absl::StrCat(kMagic));
  if (Load<uint16_t>(message, kVersionAt) != kHostGreetingVersion)
    return Wrong("version", Load<uint16_t>(message, kVersionAt),
                 absl::StrCat(kHostGreetingVersion));
  return absl::OkStatus();
}

absl::Status CheckRing(std::string_view field, uint64_t bytes) {
  if (bytes >= kLeastRingBytes && bytes <= kMostRingBytes && bytes % kRingUnit == 0)
    return absl::OkStatus();
  return Wrong(
      field, bytes,
      absl::StrCat("a multiple of ", kRingUnit, " from ", kLeastRingBytes, " to ", kMostRingBytes));
}

}  // namespace

std::vector<std::byte> EncodeOffer(const HostOffer& offer) {
  const std::string_view cluster = Cut(offer.cluster), worker = Cut(offer.worker),
                         secret = Cut(offer.secret);
  std::vector<std::byte> message =
      Begin(kOfferBytes + cluster.size() + worker.size() + secret.size());
  Store<uint16_t>(message, kClusterBytesAt, static_cast<uint16_t>(cluster.size()));
  Store<uint16_t>(message, kWorkerBytesAt, static_cast<uint16_t>(worker.size()));
  Store<uint16_t>(message, kSecretBytesAt, static_cast<uint16_t>(secret.size()));
  Store<uint64_t>(message, kRequestRingAt, offer.request_ring_bytes);
  Store<uint64_t>(message, kResultRingAt, offer.result_ring_bytes);
  StoreText(message, kOfferBytes, cluster);
  StoreText(message, kOfferBytes + cluster.size(), worker);
  StoreText(message, kOfferBytes + cluster.size() + worker.size(), secret);
  return message;
}

std::vector<std::byte> EncodeAnswer(const HostAnswer& answer) {
  const absl::string_view text = answer.status.message();
  const std::string_view cut = Cut({text.data(), text.size()});
  std::vector<std::byte> message = Begin(kAnswerBytes + cut.size());
  Store<uint16_t>(message, kCodeAt, static_cast<uint16_t>(answer.status.code()));
  Store<uint16_t>(message, kTextBytesAt, static_cast<uint16_t>(cut.size()));
  StoreText(message, kAnswerBytes, cut);
  return message;
}

absl::StatusOr<HostOffer> ParseOffer(std::span<const std::byte> message) {
  RETURN_IF_ERROR(CheckStart(message, kOfferBytes));
  const size_t cluster_bytes = Load<uint16_t>(message, kClusterBytesAt);
  const size_t worker_bytes = Load<uint16_t>(message, kWorkerBytesAt);
  const size_t secret_bytes = Load<uint16_t>(message, kSecretBytesAt);
  const size_t bytes = kOfferBytes + cluster_bytes + worker_bytes + secret_bytes;
  if (message.size() != bytes) return Wrong("length", message.size(), absl::StrCat(bytes));
  HostOffer offer;
  offer.request_ring_bytes = Load<uint64_t>(message, kRequestRingAt);
  offer.result_ring_bytes = Load<uint64_t>(message, kResultRingAt);
  RETURN_IF_ERROR(CheckRing("request ring", offer.request_ring_bytes));
  RETURN_IF_ERROR(CheckRing("result ring", offer.result_ring_bytes));
  offer.cluster = TextAt(message, kOfferBytes, cluster_bytes);
  offer.worker = TextAt(message, kOfferBytes + cluster_bytes, worker_bytes);
  offer.secret = TextAt(message, kOfferBytes + cluster_bytes + worker_bytes, secret_bytes);
  return offer;
}

absl::StatusOr<HostAnswer> ParseAnswer(std::span<const std::byte> message) {
  RETURN_IF_ERROR(CheckStart(message, kAnswerBytes));
  const size_t text_bytes = Load<uint16_t>(message, kTextBytesAt);
  if (message.size() != kAnswerBytes + text_bytes)
    return Wrong("length", message.size(), absl::StrCat(kAnswerBytes + text_bytes));
  const uint16_t code = Load<uint16_t>(message, kCodeAt);
  if (code > static_cast<uint16_t>(absl::StatusCode::kUnauthenticated))
    return Wrong("code", code, "a gRPC status code");
  return HostAnswer{
      absl::Status(static_cast<absl::StatusCode>(code), TextAt(message, kAnswerBytes, text_bytes))};
}

}  // namespace conclave::rpc
