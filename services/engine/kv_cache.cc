#include "services/engine/kv_cache.h"

#include <cstring>
#include <utility>

#include "kernels/attention.h"
#include "shared/base/check.h"

namespace conclave::engine {

KvCache::KvCache(std::unique_ptr<KvMemory> memory)
    : memory_(std::move(memory)), blocks_(memory_->num_blocks()) {
  free_.reserve(blocks_.size());
  for (int32_t block = num_blocks() - 1; block >= 0; --block) free_.push_back(block);
}

int64_t KvCache::capacity_tokens() const { return num_blocks() * kernels::kBlockTokens; }

bool KvCache::Allocate(int32_t count, std::vector<int32_t>* blocks) {
  if (count > free_blocks()) return false;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t block = free_.back();
    free_.pop_back();
    blocks_[block].references = 1;
    std::memset(memory_->base() + block * memory_->block_bytes(), 0, memory_->block_bytes());
    blocks->push_back(block);
  }
  return true;
}

void KvCache::AddReference(int32_t block) {
  CONCLAVE_CHECK(block >= 0 && block < num_blocks() && blocks_[block].references > 0);
  ++blocks_[block].references;
}

void KvCache::Release(int32_t block) {
  CONCLAVE_CHECK(block >= 0 && block < num_blocks() && blocks_[block].references > 0);
  if (--blocks_[block].references > 0) return;
  blocks_[block].sealed = false;
  free_.push_back(block);
}

void KvCache::Seal(int32_t block, const BlockAddress& address) {
  CONCLAVE_CHECK(block >= 0 && block < num_blocks() && blocks_[block].references > 0 &&
                 !blocks_[block].sealed);
  blocks_[block].sealed = true;
  blocks_[block].address = address;
}

const BlockAddress* KvCache::AddressOf(int32_t block) const {
  return blocks_[block].sealed ? &blocks_[block].address : nullptr;
}

}  // namespace conclave::engine
