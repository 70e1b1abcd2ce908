#include <immintrin.h>

#include "kernels/cpu/level_functions.h"

namespace conclave::kernels::cpu {
namespace {

constexpr int64_t kRowBytes = 64;

__m256i LoadHalf(const std::byte* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}
void StoreHalf(std::byte* p, __m256i x) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), x); }

// A key row holds a pair of dimensions of 16 positions, a value row a pair of positions of 16
// dimensions: inside 64 bits the two pairs of 16 bits change places, then the 64 bits do, in blocks
// of 4 by 4.
void TurnBf16(const std::byte* keys, int64_t num_rows, std::byte* values) {
  const __m256i exchange = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  for (int64_t row = 0; row < 8; row += 4) {
    for (int64_t half = 0; half < 2; ++half) {
      __m256i r[4];
      for (int64_t i = 0; i < 4; ++i) {
        r[i] =
            row + i < num_rows
                ? _mm256_shuffle_epi8(LoadHalf(keys + (row + i) * kRowBytes + half * 32), exchange)
                : _mm256_setzero_si256();
      }
      const __m256i a = _mm256_unpacklo_epi64(r[0], r[1]), b = _mm256_unpackhi_epi64(r[0], r[1]);
      const __m256i c = _mm256_unpacklo_epi64(r[2], r[3]), d = _mm256_unpackhi_epi64(r[2], r[3]);
      std::byte* to = values + half * 4 * kRowBytes + row * 8;
      StoreHalf(to, _mm256_permute2x128_si256(a, c, 0x20));
      StoreHalf(to + kRowBytes, _mm256_permute2x128_si256(b, d, 0x20));
      StoreHalf(to + 2 * kRowBytes, _mm256_permute2x128_si256(a, c, 0x31));
      StoreHalf(to + 3 * kRowBytes, _mm256_permute2x128_si256(b, d, 0x31));
    }
  }
}

// A key row holds one dimension of 16 positions: they change places in blocks of 8 by 8.
void TurnF32(const std::byte* keys, int64_t num_rows, std::byte* values) {
  for (int64_t row = 0; row < 16; row += 8) {
    for (int64_t half = 0; half < 2; ++half) {
      __m256 r[8], s[8];
      for (int64_t i = 0; i < 8; ++i) {
        r[i] = row + i < num_rows
                   ? _mm256_castsi256_ps(LoadHalf(keys + (row + i) * kRowBytes + half * 32))
                   : _mm256_setzero_ps();
      }
      // Pairs, fours, then the halves of the registers.
      for (int i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
      }
      for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
      }
      std::byte* to = values + half * 8 * kRowBytes + row * 4;
      for (int64_t i = 0; i < 4; ++i) {
        const __m256 low = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        const __m256 high = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
        StoreHalf(to + i * kRowBytes, _mm256_castps_si256(low));
        StoreHalf(to + (i + 4) * kRowBytes, _mm256_castps_si256(high));
      }
    }
  }
}

}  // namespace

void TurnPanelAvx2(const PanelTurn& turn) {
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
