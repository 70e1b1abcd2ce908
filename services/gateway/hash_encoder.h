// An unambiguous encoding of values to be hashed: fixed widths, little-endian, sequences with their
// count. No two different lists of values share an encoding.
#pragma once

#include <concepts>
#include <cstdint>
#include <ranges>
#include <string>
#include <string_view>
#include <type_traits>

#include "shared/base/sha256.h"

namespace conclave::gateway {

class HashEncoder {
 public:
  template <typename T>
    requires std::is_arithmetic_v<T> || std::is_enum_v<T>
  void Add(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void Add(std::string_view text) {
    Add(static_cast<uint64_t>(text.size()));
    bytes_ += text;
  }
  void Add(const std::string& text) { Add(std::string_view(text)); }
  void Add(const char* text) { Add(std::string_view(text)); }
  template <typename Values>
    requires std::ranges::sized_range<Values> &&
             (!std::convertible_to<const Values&, std::string_view>)
  void Add(const Values& values) {
    Add(static_cast<uint64_t>(values.size()));
    for (const auto& value : values) Add(value);
  }

  Sha256Digest Sha256() const { return conclave::Sha256(bytes_); }

 private:
  std::string bytes_;
};

}  // namespace conclave::gateway
