// The texts of a model of random weights: a tokenizer of single bytes, so that gateways can serve
// it. For benchmarks, which send ids or text that nobody reads.
//
// Pure.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace conclave::cli {

// Fewer ids cannot name every byte.
inline constexpr int32_t kFewestPlainIds = 256;

// Names and bytes of tokenizer.json and tokenizer_config.json for ids from 0 to `vocab_size` - 1,
// at least kFewestPlainIds: each of the first 256 is a byte, and text is encoded in those alone;
// the others are words, "<256>", "<257>", ..., which only a model can say. The chat template is the
// turns' texts, one after the other.
std::vector<std::pair<std::string, std::string>> PlainTokenizer(int32_t vocab_size);

}  // namespace conclave::cli
