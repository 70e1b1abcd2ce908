// Words of gRPC over HTTP/2, as its protocol document writes them
// (github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md).
//
// Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "shared/base/clock.h"

namespace conclave::h2 {

// Before each message:
//   byte 0     1: the message is compressed, 0: it is not
//   bytes 1-4  its length, big-endian
inline constexpr size_t kPrefixBytes = 5;
// Of the message that follows a whole prefix.
size_t LengthIn(std::string_view prefix);

// The value of grpc-timeout: up to eight digits and a unit (H, M, S, m, u, n). Nothing when it is
// not that.
std::optional<Duration> ParseTimeout(std::string_view text);

// Whether the value of content-type is gRPC's: "application/grpc", with or without a "+proto" or
// parameters.
bool IsGrpc(std::string_view content_type);

// The value of grpc-message: bytes other than printable ASCII, and '%', become %XX.
std::string PercentEncode(std::string_view text);

// The value of a name that ends in "-bin": base64 without padding.
std::string BinaryValue(std::string_view bytes);

// As protocol buffers write tags and lengths.
void AppendVarint(uint64_t value, std::string* bytes);

}  // namespace conclave::h2
