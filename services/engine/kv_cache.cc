#include "services/engine/kv_cache.h"

#include <cstring>
#include <utility>

#include "kernels/attention.h"
#include "shared/base/check.h"

namespace conclave::engine {

KvCache::KvCache(std::unique_ptr<KvMemory> memory, bool reuse)
    : memory_(std::move(memory)), reuse_(reuse), blocks_(memory_->num_blocks()) {
  empty_.reserve(blocks_.size());
  for (int32_t block = num_blocks() - 1; block >= 0; --block) empty_.push_back(block);
}

int64_t KvCache::capacity_tokens() const { return num_blocks() * kernels::kBlockTokens; }

bool KvCache::Allocate(int32_t count, std::vector<int32_t>* blocks) {
  if (count > free_blocks()) return false;
  for (int32_t i = 0; i < count; ++i) {
    if (empty_.empty()) {
      const int32_t oldest = cached_.front();
      cached_.pop_front();
      by_address_.erase(blocks_[oldest].address);
      blocks_[oldest].sealed = false;
      empty_.push_back(oldest);
    }
    const int32_t block = empty_.back();
    empty_.pop_back();
    blocks_[block].references = 1;
    std::memset(memory_->base() + block * memory_->block_bytes(), 0, memory_->block_bytes());
    blocks->push_back(block);
  }
  return true;
}

std::optional<int32_t> KvCache::Find(const BlockAddress& address) const {
  const auto at = by_address_.find(address);
  return at == by_address_.end() ? std::nullopt : std::optional(at->second);
}

void KvCache::AddReference(int32_t block) {
  CONCLAVE_CHECK(block >= 0 && block < num_blocks() &&
                 (blocks_[block].references > 0 || blocks_[block].sealed));
  if (blocks_[block].references++ == 0) cached_.erase(blocks_[block].kept);
}

void KvCache::Release(int32_t block) {
  CONCLAVE_CHECK(block >= 0 && block < num_blocks() && blocks_[block].references > 0);
  if (--blocks_[block].references > 0) return;
  // Another block with its address may have been found first, and be gone by now.
  if (reuse_ && blocks_[block].sealed &&
      by_address_.try_emplace(blocks_[block].address, block).first->second == block) {
    blocks_[block].kept = cached_.insert(cached_.end(), block);
    return;
  }
  blocks_[block].sealed = false;
  empty_.push_back(block);
}

void KvCache::Seal(int32_t block, const BlockAddress& address) {
  CONCLAVE_CHECK(block >= 0 && block < num_blocks() && blocks_[block].references > 0 &&
                 !blocks_[block].sealed);
  blocks_[block].sealed = true;
  blocks_[block].address = address;
  if (reuse_) by_address_.try_emplace(address, block);
}

const BlockAddress* KvCache::AddressOf(int32_t block) const {
  return blocks_[block].sealed ? &blocks_[block].address : nullptr;
}

size_t KvCache::FirstBytes::operator()(const BlockAddress& address) const {
  size_t bytes;
  std::memcpy(&bytes, address.digest.data(), sizeof(bytes));
  return bytes;
}

}  // namespace conclave::engine
