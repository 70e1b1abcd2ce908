// What a stranger sent, as error messages quote it: short, printable, and readable in any language.
//
// Pure; any thread.
#pragma once

#include <string>
#include <string_view>

namespace conclave::gateway {

// At most `max_bytes` of `text`, cut between characters, with a space for each control character.
inline std::string Excerpt(std::string_view text, size_t max_bytes) {
  size_t end = text.size();
  if (end > max_bytes) {
    end = max_bytes;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  }
  std::string excerpt(text.substr(0, end));
  for (char& c : excerpt) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) c = ' ';
  }
  if (end < text.size()) excerpt += "...";
  return excerpt;
}

}  // namespace conclave::gateway
