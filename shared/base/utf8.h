// Whether bytes are UTF-8.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace conclave {

// Offset of the first byte that does not belong to well-formed UTF-8 (RFC 3629: no overlong forms,
// no surrogates, nothing above U+10FFFF); nullopt when all is well.
std::optional<size_t> FirstInvalidUtf8(std::string_view bytes);

}  // namespace conclave
