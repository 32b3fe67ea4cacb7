// Sixteen floats as one register: processors with AVX-512.
#pragma once
#include <immintrin.h>

#include "numbers.h"

namespace specfleet {

using Float16 = __m512;

// How many of them fit into registers.
constexpr int kRegisters = 32;

inline Float16 zeros() { return _mm512_setzero_ps(); }
inline Float16 splat(float value) { return _mm512_set1_ps(value); }
inline Float16 load(const float* p) { return _mm512_loadu_ps(p); }
inline Float16 load(const bf16* p) {
  __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline void store(float* p, Float16 v) { _mm512_storeu_ps(p, v); }
inline Float16 add(Float16 a, Float16 b) { return _mm512_add_ps(a, b); }
inline Float16 sub(Float16 a, Float16 b) { return _mm512_sub_ps(a, b); }
inline Float16 mul(Float16 a, Float16 b) { return _mm512_mul_ps(a, b); }
inline Float16 div(Float16 a, Float16 b) { return _mm512_div_ps(a, b); }
inline Float16 fma(Float16 a, Float16 b, Float16 c) { return _mm512_fmadd_ps(a, b, c); }
inline Float16 max(Float16 a, Float16 b) { return _mm512_max_ps(a, b); }
inline Float16 min(Float16 a, Float16 b) { return _mm512_min_ps(a, b); }
inline Float16 round_nearest(Float16 a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Float16 scale_by_power_of_two(Float16 a, Float16 exponent) { return _mm512_scalef_ps(a, exponent); }
// Lanes whose index is in [first, last) keep their value, the others become `other`.
inline Float16 keep_lanes(Float16 v, int first, int last, float other) {
  uint32_t below_last = last >= kLanes ? 0xffffu : (1u << (last < 0 ? 0 : last)) - 1u;
  uint32_t below_first = first <= 0 ? 0u : (1u << first) - 1u;
  return _mm512_mask_mov_ps(splat(other), static_cast<__mmask16>(below_last & ~below_first), v);
}

// Sixteen unsigned 32-bit words.
using Word16 = __m512i;

inline Word16 splat_word(uint32_t value) { return _mm512_set1_epi32(static_cast<int>(value)); }
inline Word16 load_words(const void* p) { return _mm512_loadu_si512(p); }
inline Word16 count_up(uint32_t first) {
  return _mm512_add_epi32(splat_word(first), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
inline Word16 bit_xor(Word16 a, Word16 b) { return _mm512_xor_si512(a, b); }
inline Word16 bit_and(Word16 a, Word16 b) { return _mm512_and_si512(a, b); }
inline Word16 add_words(Word16 a, Word16 b) { return _mm512_add_epi32(a, b); }
inline Word16 sub_words(Word16 a, Word16 b) { return _mm512_sub_epi32(a, b); }
template <int kBits>
inline Word16 shift_signed(Word16 a) { return _mm512_srai_epi32(a, kBits); }
template <int kBits>
inline Word16 shift_left(Word16 a) { return _mm512_slli_epi32(a, kBits); }
inline void multiply_wide(Word16 a, uint32_t by, Word16* high, Word16* low) {
  const Word16 factor = splat_word(by);
  const Word16 even = _mm512_mul_epu32(a, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
  *low = _mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32));
  *high = _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd);
}
inline Float16 float_of_unsigned(Word16 a) { return _mm512_cvtepu32_ps(a); }
inline Float16 float_of_signed(Word16 a) { return _mm512_cvtepi32_ps(a); }
inline Word16 bits_of(Float16 a) { return _mm512_castps_si512(a); }
inline Float16 float_with_bits(Word16 a) { return _mm512_castsi512_ps(a); }
inline Float16 negative(Float16 a) {
  return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), splat_word(0x80000000u)));
}
inline bool any_equal(Float16 a, Float16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ) != 0; }
inline Float16 where_less(Float16 a, Float16 b, Float16 then, Float16 otherwise) {
  return _mm512_mask_mov_ps(otherwise, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), then);
}

#if defined(__AVX512BF16__)
// The instruction rounds as from_float does, but flushes subnormals; each library has one of the two.
inline void store(bf16* p, Float16 v) {
  __m256bh half = _mm512_cvtneps_pbh(v);
  std::memcpy(p, &half, 32);
}
#else
// As from_float: to nearest, ties to even; NaN stays NaN.
inline void store(bf16* p, Float16 v) {
  const Word16 bits = _mm512_castps_si512(v), upper = _mm512_srli_epi32(bits, 16);
  const Word16 odd = _mm512_and_si512(upper, splat_word(1));
  const Word16 rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, splat_word(0x7fff))), 16);
  const Word16 quiet = _mm512_or_si512(upper, splat_word(0x40));
  const Word16 out = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(out));
}
#endif

}  // namespace specfleet
