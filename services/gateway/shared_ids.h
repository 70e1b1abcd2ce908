// A prompt's ids, which a request, its sequences, its answer and the cache hold together: copying
// them copies no id.
//
// Immutable value; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace conclave::gateway {

class SharedIds {
 public:
  SharedIds() = default;               // none
  SharedIds(std::vector<int32_t> ids)  // NOLINT(google-explicit-constructor): it is the same value
      : ids_(std::make_shared<const std::vector<int32_t>>(std::move(ids))) {}

  const int32_t* data() const { return ids_ ? ids_->data() : nullptr; }
  size_t size() const { return ids_ ? ids_->size() : 0; }
  const int32_t* begin() const { return data(); }
  const int32_t* end() const { return data() + size(); }
  // Of the ids' memory.
  size_t bytes() const { return ids_ ? ids_->capacity() * sizeof(int32_t) : 0; }

 private:
  std::shared_ptr<const std::vector<int32_t>> ids_;
};

}  // namespace conclave::gateway
