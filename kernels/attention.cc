#include "kernels/attention.h"

#include "kernels/kv_layout.h"
#include "kernels/ref/attention.h"
#include "kernels/ref/matmul.h"

namespace conclave::kernels {

size_t KvBlockBytes(const KvShape& shape) { return KvLayout(shape).block_bytes; }

void WriteKv(const KvShape& shape, const KvLayer& layer, std::span<const SequenceRows> sequences,
             MatrixView<const float> keys, MatrixView<const float> values, Context& /*context*/) {
  ref::WriteKv(shape, layer, sequences, keys, values);
}

void Attention(const AttentionParameters& parameters, const KvLayer& layer,
               std::span<const SequenceRows> sequences, MatrixView<const float> queries,
               MatrixView<float> output, Context& /*context*/) {
  ref::Attention(parameters, layer, sequences, queries, output);
}

void HeadMatmul(std::span<const PackedMatrix> weights, MatrixView<const float> input,
                int64_t input_head_stride, MatrixView<float> output, int64_t output_head_stride,
                Context& /*context*/) {
  ref::HeadMatmul(weights, input, input_head_stride, output, output_head_stride);
}

}  // namespace conclave::kernels
