// Causal attention of new tokens over the paged KV cache: grouped-query attention, and multi-head
// latent attention in its absorbed form (DeepSeek-V2, arXiv 2405.04434, section 2.1), which is the
// only form used.
//
// Called on the engine's step thread. A token's result depends on its own query and its sequence's
// cache alone: context is cut into segments of kSegmentTokens at absolute positions, merged in
// ascending order (docs/numerics.md, "Attention").
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::kernels {

inline constexpr int64_t kBlockTokens = 32;     // of a KV block
inline constexpr int64_t kSegmentTokens = 256;  // of a context segment; a multiple of kBlockTokens

// What the cache holds of one layer.
struct KvShape {
  NumericsClass numerics = NumericsClass::kBf16;  // TableFormatOf it: bf16, or f32
  int32_t num_kv_heads = 1;                       // MLA: 1
  int32_t key_dim = 0;                            // MLA: kv_lora_rank + qk_rope_head_dim
  int32_t value_dim = 0;                          // MLA: kv_lora_rank
  // MLA: the value is the first value_dim elements of the key, and is not stored again.
  bool value_is_key_prefix = false;
};

// Bytes of one block of one layer, a multiple of 64. The layout inside is the kernels' own.
size_t KvBlockBytes(const KvShape& shape);

// One layer's share of a block pool: block b of this layer starts at base + b * block_stride_bytes.
// Fresh blocks are zeroed.
struct KvLayer {
  std::byte* base = nullptr;
  int64_t block_stride_bytes = 0;
};

// The new tokens of one sequence in a step: rows [first_row, first_row + num_rows) of the step's
// buffers, at positions first_position, first_position + 1, ... `blocks` lists the ids of the
// blocks that cover [0, first_position + num_rows).
struct SequenceRows {
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t first_position = 0;
  std::span<const int32_t> blocks;
};

// Rounds keys and values to the cache's type and stores them. The cache holds finite numbers only:
// what is larger saturates, a NaN becomes zero, so that a masked position contributes nothing. keys
// [num_rows, num_kv_heads * key_dim] f32; values [num_rows, num_kv_heads * value_dim] f32, ignored
// (may be empty) when value_is_key_prefix.
void WriteKv(const KvShape& shape, const KvLayer& layer, std::span<const SequenceRows> sequences,
             MatrixView<const float> keys, MatrixView<const float> values, Context& context);

struct AttentionParameters {
  KvShape kv;
  int32_t num_heads =
      0;  // a multiple of kv.num_kv_heads; head h reads KV head h / (num_heads / num_kv_heads)
  float scale = 1.0f;  // multiplies each score, after the sum
  int32_t window_tokens =
      0;  // a token sees itself and the window_tokens - 1 before it; 0: everything
  const float* sinks = nullptr;  // [num_heads] logits of a virtual token without a value, or null
};

// output[r][h] = softmax(scale * q . K) V over positions <= r's own. queries [num_rows, num_heads *
// key_dim] f32 (rounded to the cache's type first); output [num_rows, num_heads * value_dim] f32.
// The rows' own keys are in the cache already.
void Attention(const AttentionParameters& parameters, const KvLayer& layer,
               std::span<const SequenceRows> sequences, MatrixView<const float> queries,
               MatrixView<float> output, Context& context);

// output[r][h] = weights[h] * input[r][h]: one small matrix a head (MLA's absorbed kv_b factors),
// all of one shape and format. input [num_rows, >= num_heads * input_head_stride], head h starts at
// column h * input_head_stride; likewise output.
void HeadMatmul(std::span<const PackedMatrix> weights, MatrixView<const float> input,
                int64_t input_head_stride, MatrixView<float> output, int64_t output_head_stride,
                Context& context);

}  // namespace conclave::kernels
