// Memory for rows of activations that grows to the largest step seen and is then reused.
//
// Owned by the layers and the forward pass; touched by the step thread and, inside a kernel, by its
// pool.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

#include "kernels/matrix.h"

namespace conclave::engine {

template <typename T>
class RowBuffer {
  static_assert(std::is_trivial_v<T>);

 public:
  // A dense view of [rows, cols] elements. What an earlier, smaller view held is kept at the same
  // offsets; the rest of the contents is undefined. Views die with the next call that grows the
  // buffer.
  kernels::MatrixView<T> Shape(int64_t rows, int64_t cols) {
    Reserve(rows * cols);
    return kernels::DenseView(data_.get(), rows, cols);
  }
  T* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};  // a cache line, and a 512-bit register
  struct Free {
    void operator()(T* p) const { ::operator delete(p, kAlignment); }
  };

  void Reserve(int64_t elements) {
    if (elements <= capacity_) return;
    const int64_t capacity = std::max(elements, capacity_ + capacity_ / 2);
    std::unique_ptr<T, Free> grown(
        static_cast<T*>(::operator new(static_cast<size_t>(capacity) * sizeof(T), kAlignment)));
    std::copy(data_.get(), data_.get() + capacity_, grown.get());
    std::fill(grown.get() + capacity_, grown.get() + capacity, T{});
    data_ = std::move(grown);
    capacity_ = capacity;
  }

  std::unique_ptr<T, Free> data_;
  int64_t capacity_ = 0;
};

// The same memory, read-only: what kernels take as input.
template <typename T>
kernels::MatrixView<const T> ReadOnly(const kernels::MatrixView<T>& view) {
  return {view.data, view.rows, view.cols, view.stride};
}

}  // namespace conclave::engine
