// Attention of a tile of query rows that share one sequence and one KV head, by chains over the
// cache's panels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/kv_layout.h"

namespace conclave::kernels::cpu {

// Query rows of a tile: four register tiles. A segment's keys and values are read once for them.
inline constexpr int64_t kTileQueries = 24;

// Query rows of a sequence under one KV head are numbered token by token, in a token head by head:
// query i is token i / group, head kv_head * group + i % group.
struct AttentionTile {
  int64_t sequence = 0;  // index into the step's sequences
  int64_t kv_head = 0;
  int64_t first_query = 0;
  int64_t num_queries = 0;  // <= kTileQueries
};

// Scratch that one thread needs for a tile: a multiple of 64 bytes.
size_t AttentionTileBytes(const KvShape& shape);

// Computes a tile at a level above kReference. `scratch` is 64-byte aligned, AttentionTileBytes
// long.
void AttendTile(CpuLevel level, const AttentionParameters& parameters, const KvLayout& layout,
                const KvLayer& layer, const SequenceRows& sequence, const AttentionTile& tile,
                MatrixView<const float> queries, MatrixView<float> output, std::byte* scratch);

}  // namespace conclave::kernels::cpu
