#include "services/engine/kv_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/check.h"

namespace conclave::engine {
namespace {

class AnonymousKvMemory final : public KvMemory {
 public:
  AnonymousKvMemory(std::byte* base, int32_t num_blocks, int64_t block_bytes)
      : base_(base), num_blocks_(num_blocks), block_bytes_(block_bytes) {}
  ~AnonymousKvMemory() override { munmap(base_, num_blocks_ * block_bytes_); }

  std::byte* base() override { return base_; }
  int32_t num_blocks() const override { return num_blocks_; }
  int64_t block_bytes() const override { return block_bytes_; }

 private:
  std::byte* const base_;
  const int32_t num_blocks_;
  const int64_t block_bytes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<KvMemory>> MapKvMemory(int32_t num_blocks, int64_t block_bytes) {
  CONCLAVE_CHECK(num_blocks > 0 && block_bytes > 0);
  const int64_t bytes = num_blocks * block_bytes;
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the KV cache of ", bytes >> 20, " MiB could not be mapped: ", std::strerror(errno),
        "; lower kv_memory or raise the limit of the address space"));
  }
  madvise(base, bytes,
          MADV_HUGEPAGE);  // advice only: a kernel without huge pages serves small ones
  return std::unique_ptr<KvMemory>(
      std::make_unique<AnonymousKvMemory>(static_cast<std::byte*>(base), num_blocks, block_bytes));
}

}  // namespace conclave::engine
