// The memory of the KV blocks, behind an interface: anonymous memory today; a shared-memory file
// that outlives the process, and lower tiers, can stand behind the same one.
//
// Owned by the KvCache; written by the step thread and, through KvStorage, by the kernels that it
// calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace conclave::engine {

// num_blocks blocks of block_bytes each, one after the other; a block holds kernels::kBlockTokens
// tokens of all layers.
class KvMemory {
 public:
  virtual ~KvMemory() = default;
  virtual std::byte* base() = 0;
  virtual int32_t num_blocks() const = 0;
  virtual int64_t block_bytes() const = 0;
};

// Private memory that the system commits page by page as blocks are first used. RESOURCE_EXHAUSTED
// names the size when the address space cannot be had.
absl::StatusOr<std::unique_ptr<KvMemory>> MapKvMemory(int32_t num_blocks, int64_t block_bytes);

}  // namespace conclave::engine
