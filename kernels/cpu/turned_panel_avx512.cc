#include <immintrin.h>

#include <algorithm>

#include "kernels/cpu/level_functions.h"

namespace conclave::kernels::cpu {
namespace {

constexpr int64_t kRowBytes = 64;

// Rows of 8 elements of 64 bits become columns.
void Transpose8(__m512i rows[8]) {
  __m512i pairs[8], quads[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm512_unpacklo_epi64(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi64(rows[i], rows[i + 1]);
  }
  for (int half = 0; half < 8; half += 4) {
    for (int i = 0; i < 2; ++i) {
      const __m512i a = pairs[half + i], b = pairs[half + 2 + i];
      quads[half + i] = _mm512_shuffle_i64x2(a, b, 0x88);      // lanes 0 and 2 of each
      quads[half + 2 + i] = _mm512_shuffle_i64x2(a, b, 0xdd);  // lanes 1 and 3
    }
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i a = quads[i], b = quads[4 + i];
    rows[i] = _mm512_shuffle_i64x2(a, b, 0x88);
    rows[4 + i] = _mm512_shuffle_i64x2(a, b, 0xdd);
  }
}

// A key row holds a pair of dimensions of 16 positions, a value row a pair of positions of 16
// dimensions: inside 64 bits the two pairs of 16 bits change places, then the 64 bits do.
void TurnBf16(const std::byte* keys, int64_t num_rows, std::byte* values) {
  const __m512i exchange =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  __m512i rows[8];
  for (int64_t i = 0; i < 8; ++i) {
    rows[i] = i < num_rows ? _mm512_shuffle_epi8(_mm512_load_si512(keys + i * kRowBytes), exchange)
                           : _mm512_setzero_si512();
  }
  Transpose8(rows);
  for (int64_t i = 0; i < 8; ++i) _mm512_store_si512(values + i * kRowBytes, rows[i]);
}

// A key row holds one dimension of 16 positions.
void TurnF32(const std::byte* keys, int64_t num_rows, std::byte* values) {
  const __m512i rows =
      _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                         _mm512_set1_epi32(16));
  const __mmask16 exist = static_cast<__mmask16>((1u << std::min<int64_t>(num_rows, 16)) - 1);
  for (int64_t position = 0; position < 16; ++position) {
    const __m512 row = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), exist, rows,
                                                reinterpret_cast<const float*>(keys) + position, 4);
    _mm512_store_ps(values + position * kRowBytes, row);
  }
}

}  // namespace

void TurnPanelAvx512(const PanelTurn& turn) {
  const int64_t left = turn.key_dim - turn.first;
  for (int64_t p = 0; p < 2; ++p) {
    if (turn.format == WeightFormat::kF32) {
      TurnF32(turn.key_panels[p] + turn.first * kRowBytes, left,
              turn.value_panel + p * 16 * kRowBytes);
    } else {
      TurnBf16(turn.key_panels[p] + turn.first / 2 * kRowBytes, (left + 1) / 2,
               turn.value_panel + p * 8 * kRowBytes);
    }
  }
}

}  // namespace conclave::kernels::cpu
