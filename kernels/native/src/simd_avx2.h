// Sixteen floats as two registers: processors with AVX2 and fused multiply-add, but without AVX-512.
#pragma once
#include <immintrin.h>

#include "numbers.h"

namespace specfleet {

struct Float16 {
  __m256 low, high;
};

// How many of them fit into registers.
constexpr int kRegisters = 8;

inline Float16 zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Float16 splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Float16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline __m256 load_half(const bf16* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline Float16 load(const bf16* p) { return {load_half(p), load_half(p + 8)}; }
inline void store(float* p, Float16 v) {
  _mm256_storeu_ps(p, v.low);
  _mm256_storeu_ps(p + 8, v.high);
}
inline Float16 add(Float16 a, Float16 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Float16 sub(Float16 a, Float16 b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline Float16 mul(Float16 a, Float16 b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Float16 div(Float16 a, Float16 b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline Float16 fma(Float16 a, Float16 b, Float16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Float16 max(Float16 a, Float16 b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline Float16 min(Float16 a, Float16 b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline Float16 round_nearest(Float16 a) {
  constexpr int kHow = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.low, kHow), _mm256_round_ps(a.high, kHow)};
}
// In two factors, each a normal number: of the first product nothing is rounded away where 0.5 <= |a| < 2 and the
// exponent is above -252, so the second rounds once, also into the subnormals.
inline __m256 scale_half(__m256 a, __m256 exponent) {
  const __m256i whole = _mm256_cvtps_epi32(exponent), first = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const auto power = [&](__m256i n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, bias), 23)); };
  return _mm256_mul_ps(_mm256_mul_ps(a, power(first)), power(_mm256_sub_epi32(whole, first)));
}
inline Float16 scale_by_power_of_two(Float16 a, Float16 exponent) {
  return {scale_half(a.low, exponent.low), scale_half(a.high, exponent.high)};
}
// Lanes whose index is in [first, last) keep their value, the others become `other`.
inline Float16 keep_lanes(Float16 v, int first, int last, float other) {
  const __m256i before = _mm256_set1_epi32(first - 1), end = _mm256_set1_epi32(last);
  const auto keep = [&](__m256 half, __m256i lanes) {
    const __m256i kept = _mm256_and_si256(_mm256_cmpgt_epi32(lanes, before), _mm256_cmpgt_epi32(end, lanes));
    return _mm256_blendv_ps(_mm256_set1_ps(other), half, _mm256_castsi256_ps(kept));
  };
  return {keep(v.low, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          keep(v.high, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}

// Sixteen unsigned 32-bit words.
struct Word16 {
  __m256i low, high;
};

inline Word16 splat_word(uint32_t value) {
  const __m256i all = _mm256_set1_epi32(static_cast<int>(value));
  return {all, all};
}
inline Word16 load_words(const void* p) {
  const __m256i* words = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(words), _mm256_loadu_si256(words + 1)};
}
inline Word16 add_words(Word16 a, Word16 b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline Word16 sub_words(Word16 a, Word16 b) {
  return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
inline Word16 count_up(uint32_t first) {
  const Word16 index = {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
  return add_words(splat_word(first), index);
}
inline Word16 bit_xor(Word16 a, Word16 b) {
  return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)};
}
inline Word16 bit_and(Word16 a, Word16 b) {
  return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
}
template <int kBits>
inline Word16 shift_signed(Word16 a) {
  return {_mm256_srai_epi32(a.low, kBits), _mm256_srai_epi32(a.high, kBits)};
}
template <int kBits>
inline Word16 shift_left(Word16 a) {
  return {_mm256_slli_epi32(a.low, kBits), _mm256_slli_epi32(a.high, kBits)};
}
inline void multiply_half(__m256i a, __m256i factor, __m256i* high, __m256i* low) {
  constexpr int kOdd = 0xaa;
  const __m256i even = _mm256_mul_epu32(a, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), factor);
  *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), kOdd);
  *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, kOdd);
}
inline void multiply_wide(Word16 a, uint32_t by, Word16* high, Word16* low) {
  const __m256i factor = _mm256_set1_epi32(static_cast<int>(by));
  multiply_half(a.low, factor, &high->low, &low->low);
  multiply_half(a.high, factor, &high->high, &low->high);
}
// Both halves of the word become floats without rounding; their sum rounds once.
inline __m256 float_of_unsigned_half(__m256i a) {
  const __m256 upper = _mm256_cvtepi32_ps(_mm256_srli_epi32(a, 16));
  const __m256 lower = _mm256_cvtepi32_ps(_mm256_and_si256(a, _mm256_set1_epi32(0xffff)));
  return _mm256_add_ps(_mm256_mul_ps(upper, _mm256_set1_ps(65536.0f)), lower);
}
inline Float16 float_of_unsigned(Word16 a) { return {float_of_unsigned_half(a.low), float_of_unsigned_half(a.high)}; }
inline Float16 float_of_signed(Word16 a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
inline Word16 bits_of(Float16 a) { return {_mm256_castps_si256(a.low), _mm256_castps_si256(a.high)}; }
inline Float16 float_with_bits(Word16 a) { return {_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)}; }
inline Float16 negative(Float16 a) { return float_with_bits(bit_xor(bits_of(a), splat_word(0x80000000u))); }
inline bool any_equal(Float16 a, Float16 b) {
  const __m256 found =
      _mm256_or_ps(_mm256_cmp_ps(a.low, b.low, _CMP_EQ_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_EQ_OQ));
  return _mm256_movemask_ps(found) != 0;
}
inline Float16 where_less(Float16 a, Float16 b, Float16 then, Float16 otherwise) {
  return {_mm256_blendv_ps(otherwise.low, then.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
          _mm256_blendv_ps(otherwise.high, then.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}

// As from_float: to nearest, ties to even; NaN stays NaN.
inline __m256i round_to_bf16(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v), upper = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
}
inline void store(bf16* p, Float16 v) {
  const __m256i mixed = _mm256_packus_epi32(round_to_bf16(v.low), round_to_bf16(v.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(mixed, 0xd8));
}

}  // namespace specfleet
