// The layout of one layer's KV block, in panels (kernels/panel.h), so that attention runs the
// matmul's inner loop on the cache as it lies. Internal to kernels/. For each KV head of a block of
// 32 tokens:
//
//   keys    2 panels of 16 positions; inputs are the key's dimensions
//   values  ceil(value_dim / 16) panels of 16 dimensions; inputs are the block's 32 positions
//
// MLA has no values of its own: they are the first dimensions of its keys, and are turned where
// sums of values read them (kernels/cpu/turned_panel.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/panel.h"

namespace conclave::kernels {

inline constexpr int64_t kBlockKeyPanels = kBlockTokens / kPanelOutputs;

struct KvLayout {
  explicit KvLayout(const KvShape& shape)
      : format(TableFormatOf(shape.numerics)),
        key_panel_bytes(PanelBytes(format, shape.key_dim)),
        value_panel_bytes(PanelBytes(format, kBlockTokens)),
        values_offset(kBlockKeyPanels * key_panel_bytes),
        head_bytes(values_offset +
                   (shape.value_is_key_prefix
                        ? 0
                        : static_cast<size_t>(NumPanels(shape.value_dim)) * value_panel_bytes)),
        block_bytes(static_cast<size_t>(shape.num_kv_heads) * head_bytes) {}

  WeightFormat format;
  size_t key_panel_bytes;
  size_t value_panel_bytes;
  size_t values_offset;
  size_t head_bytes;
  size_t block_bytes;

  // Of positions [16 * panel, 16 * panel + 16) of a block.
  std::byte* KeyPanel(const KvLayer& layer, int64_t block, int64_t head, int64_t panel) const {
    return Head(layer, block, head) + static_cast<size_t>(panel) * key_panel_bytes;
  }
  // Of dimensions [16 * panel, 16 * panel + 16). Only where values are apart from the keys.
  std::byte* ValuePanel(const KvLayer& layer, int64_t block, int64_t head, int64_t panel) const {
    return Head(layer, block, head) + values_offset +
           static_cast<size_t>(panel) * value_panel_bytes;
  }

 private:
  std::byte* Head(const KvLayer& layer, int64_t block, int64_t head) const {
    return layer.base + block * layer.block_stride_bytes + static_cast<size_t>(head) * head_bytes;
  }
};

}  // namespace conclave::kernels
