// The plain form of kernels/attention.h: the oracle of every faster one.
#pragma once

#include <span>

#include "kernels/attention.h"

namespace conclave::kernels::ref {

void WriteKv(const KvShape& shape, const KvLayer& layer, std::span<const SequenceRows> sequences,
             MatrixView<const float> keys, MatrixView<const float> values);

void Attention(const AttentionParameters& parameters, const KvLayer& layer,
               std::span<const SequenceRows> sequences, MatrixView<const float> queries,
               MatrixView<float> output);

}  // namespace conclave::kernels::ref
