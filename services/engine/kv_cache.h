// The pool of KV blocks: who holds which, counted by references, and what each full one contains.
//
// Owned and used by the step thread alone. A held block becomes sealed when all its tokens are
// computed, and from then on has a content address and never changes. A block without a holder is
// free; if it is sealed its contents are kept until its memory is needed, longest unused first, so
// that a sequence with the same prefix takes it over instead of computing it.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "services/engine/block_address.h"
#include "services/engine/forward.h"
#include "services/engine/kv_memory.h"
#include "shared/model/kv_plan.h"

namespace conclave::engine {

class KvCache {
 public:
  // `reuse` false: contents are not kept, and Find finds nothing.
  KvCache(std::unique_ptr<KvMemory> memory, bool reuse);

  int32_t num_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  int32_t free_blocks() const { return static_cast<int32_t>(empty_.size() + cached_.size()); }
  int32_t used_blocks() const { return num_blocks() - free_blocks(); }
  int32_t cached_blocks() const {
    return static_cast<int32_t>(cached_.size());
  }  // of the free ones
  int64_t capacity_tokens() const;
  int64_t block_bytes() const { return memory_->block_bytes(); }
  KvStorage storage() const { return {memory_->base(), memory_->block_bytes()}; }

  // Appends `count` blocks to `blocks`, each zeroed and with one reference. False, and nothing
  // done, when fewer are free. The contents kept longest go first.
  bool Allocate(int32_t count, std::vector<int32_t>* blocks);

  // The block, held or free, that has the contents of an address.
  std::optional<int32_t> Find(const BlockAddress& address) const;

  // One holder more of a held block or of one that Find has found, and one less: without a holder
  // the block is free. CHECK-fails on a block that is neither.
  void AddReference(int32_t block);
  void Release(int32_t block);
  int32_t references(int32_t block) const { return blocks_[block].references; }

  // Says that all tokens of a held block are computed. CHECK-fails when it is sealed already. Of
  // blocks with one address the first is found.
  void Seal(int32_t block, const BlockAddress& address);
  // The address of a sealed block, null of any other.
  const BlockAddress* AddressOf(int32_t block) const;

 private:
  struct Block {
    int32_t references = 0;
    bool sealed = false;
    BlockAddress address;
    std::list<int32_t>::iterator kept;  // valid while it is sealed and has no holder
  };
  // A digest is as good as random.
  struct FirstBytes {
    size_t operator()(const BlockAddress& address) const;
  };

  std::unique_ptr<KvMemory> memory_;
  const bool reuse_;
  std::vector<Block> blocks_;
  std::vector<int32_t>
      empty_;  // a stack: the block freed last is used first, while it may be in a cache
  std::list<int32_t> cached_;  // free blocks with contents, the longest unused first
  std::unordered_map<BlockAddress, int32_t, FirstBytes> by_address_;
};

using model::BlocksFor;

}  // namespace conclave::engine
