#include "kernels/attention.h"

#include <algorithm>

#include "kernels/cpu/attention_tile.h"
#include "kernels/grain.h"
#include "kernels/kv_layout.h"
#include "kernels/ref/attention.h"

namespace conclave::kernels {
namespace {

// Queries of a tile: as many as it may hold, but fewer where that would leave threads without work.
int64_t TileQueries(int64_t total_queries, int num_threads) {
  const int64_t per_thread = (total_queries + num_threads - 1) / num_threads;
  return std::clamp<int64_t>(per_thread, 1, cpu::kTileQueries);
}

}  // namespace

size_t KvBlockBytes(const KvShape& shape) { return KvLayout(shape).block_bytes; }

void WriteKv(const KvShape& shape, const KvLayer& layer, std::span<const SequenceRows> sequences,
             MatrixView<const float> keys, MatrixView<const float> values, Context& /*context*/) {
  // One position is a column of its panels: scalar stores at every level.
  ref::WriteKv(shape, layer, sequences, keys, values);
}

void Attention(const AttentionParameters& parameters, const KvLayer& layer,
               std::span<const SequenceRows> sequences, MatrixView<const float> queries,
               MatrixView<float> output, Context& context) {
  if (context.level() == CpuLevel::kReference) {
    ref::Attention(parameters, layer, sequences, queries, output);
    return;
  }
  const int64_t kv_heads = parameters.kv.num_kv_heads;
  const int64_t group = parameters.num_heads / kv_heads;
  int64_t total_queries = 0;  // of one KV head
  int64_t total_context = 0;  // positions that they see, at most
  for (const SequenceRows& sequence : sequences) {
    total_queries += sequence.num_rows * group;
    total_context += sequence.num_rows * group * (sequence.first_position + sequence.num_rows);
  }
  const int64_t tile_queries = TileQueries(total_queries * kv_heads, context.pool().num_threads());
  int64_t num_tiles = 0;
  for (const SequenceRows& sequence : sequences) {
    num_tiles += kv_heads * ((sequence.num_rows * group + tile_queries - 1) / tile_queries);
  }
  const size_t tiles_bytes = static_cast<size_t>(num_tiles) * sizeof(cpu::AttentionTile);
  cpu::AttentionTile* tiles =
      reinterpret_cast<cpu::AttentionTile*>(context.Scratch(ScratchSlot::kMisc, tiles_bytes));
  int64_t next = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const int64_t rows = sequences[s].num_rows * group;
    for (int64_t head = 0; head < kv_heads; ++head) {
      for (int64_t first = 0; first < rows; first += tile_queries) {
        tiles[next++] = {static_cast<int64_t>(s), head, first,
                         std::min(tile_queries, rows - first)};
      }
    }
  }

  const KvLayout layout(parameters.kv);
  const size_t tile_bytes = cpu::AttentionTileBytes(parameters.kv);
  std::byte* scratch = context.Scratch(
      ScratchSlot::kAccumulator, tile_bytes * static_cast<size_t>(context.pool().num_threads()));
  const int64_t operations = 2 * total_context * kv_heads *
                             (parameters.kv.key_dim + parameters.kv.value_dim) /
                             std::max<int64_t>(1, num_tiles);
  context.pool().ParallelFor(
      num_tiles, Grain(0, operations), [&](int64_t begin, int64_t end, int thread) {
        for (int64_t t = begin; t < end; ++t) {
          cpu::AttendTile(context.level(), parameters, layout, layer,
                          sequences[static_cast<size_t>(tiles[t].sequence)], tiles[t], queries,
                          output, scratch + tile_bytes * static_cast<size_t>(thread));
        }
      });
}

}  // namespace conclave::kernels
