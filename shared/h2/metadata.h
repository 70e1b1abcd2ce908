// What a call's headers say besides what gRPC itself reads, in the order of arrival.
//
// A value; valid as long as its call's beginning (server_call.h). Names are in lower case; values
// are as they came: those of names that end in "-bin" are base64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::h2 {

class Metadata {
 public:
  void Add(std::string_view name, std::string_view value) {
    entries_.push_back({.begin = static_cast<uint32_t>(text_.size()),
                        .name_bytes = static_cast<uint32_t>(name.size()),
                        .value_bytes = static_cast<uint32_t>(value.size())});
    text_.append(name).append(value);
  }

  // The first value of that name.
  std::optional<std::string_view> Find(std::string_view name) const {
    for (const Entry& entry : entries_) {
      if (Name(entry) == name) return Value(entry);
    }
    return std::nullopt;
  }
  size_t Count(std::string_view name) const {
    size_t count = 0;
    for (const Entry& entry : entries_) count += Name(entry) == name;
    return count;
  }

 private:
  struct Entry {
    uint32_t begin, name_bytes, value_bytes;
  };
  std::string_view Name(const Entry& entry) const {
    return std::string_view(text_).substr(entry.begin, entry.name_bytes);
  }
  std::string_view Value(const Entry& entry) const {
    return std::string_view(text_).substr(entry.begin + entry.name_bytes, entry.value_bytes);
  }

  std::string text_;
  std::vector<Entry> entries_;
};

}  // namespace conclave::h2
