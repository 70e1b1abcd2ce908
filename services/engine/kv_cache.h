// The pool of KV blocks: who holds which, counted by references, and what each full one contains.
//
// Owned and used by the step thread alone. A block is free (no reference) or held; a held block
// becomes sealed when all its tokens are computed, and from then on has a content address and never
// changes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "services/engine/block_address.h"
#include "services/engine/forward.h"
#include "services/engine/kv_memory.h"
#include "shared/model/kv_plan.h"

namespace conclave::engine {

class KvCache {
 public:
  explicit KvCache(std::unique_ptr<KvMemory> memory);

  int32_t num_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  int32_t free_blocks() const { return static_cast<int32_t>(free_.size()); }
  int32_t used_blocks() const { return num_blocks() - free_blocks(); }
  int64_t capacity_tokens() const;
  int64_t block_bytes() const { return memory_->block_bytes(); }
  KvStorage storage() const { return {memory_->base(), memory_->block_bytes()}; }

  // Appends `count` blocks to `blocks`, each zeroed and with one reference. False, and nothing
  // done, when fewer are free.
  bool Allocate(int32_t count, std::vector<int32_t>* blocks);

  // Another holder of a held block, and one holder less: without a holder the block is free.
  // CHECK-fails on a block that is free already.
  void AddReference(int32_t block);
  void Release(int32_t block);
  int32_t references(int32_t block) const { return blocks_[block].references; }

  // Says that all tokens of a held block are computed. CHECK-fails when it is sealed already.
  void Seal(int32_t block, const BlockAddress& address);
  // The address of a sealed block, null of any other.
  const BlockAddress* AddressOf(int32_t block) const;

 private:
  struct Block {
    int32_t references = 0;
    bool sealed = false;
    BlockAddress address;
  };
  std::unique_ptr<KvMemory> memory_;
  std::vector<Block> blocks_;
  std::vector<int32_t>
      free_;  // a stack: the block freed last is used first, while it may be in a cache
};

using model::BlocksFor;

}  // namespace conclave::engine
