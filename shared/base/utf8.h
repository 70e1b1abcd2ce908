// Whether bytes are UTF-8.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace conclave {

// Offset of the first byte that does not belong to well-formed UTF-8 (RFC 3629: no overlong forms,
// no surrogates, nothing above U+10FFFF); nullopt when all is well.
std::optional<size_t> FirstInvalidUtf8(std::string_view bytes);

// One character, or as much as there is of one: at least a byte.
struct Utf8Sequence {
  size_t num_bytes = 1;
  bool whole = false;
};
// What stands at `at`, which is inside of `bytes`.
Utf8Sequence Utf8SequenceAt(std::string_view bytes, size_t at);

}  // namespace conclave
