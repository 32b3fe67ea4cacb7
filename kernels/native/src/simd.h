// Sixteen floats at a time, the same arithmetic on every machine that has them.
//
// Everything here is written so that the result of one lane depends on that lane's inputs and on the
// order of the calls, never on how the compiler grouped them: the library is built with
// -ffp-contract=off, and where a fused multiply-add is wanted it is asked for by name.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace specfleet {

constexpr int kLanes = 16;

struct bf16 {
  uint16_t bits;
};

inline float to_float(bf16 value) {
  uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline float to_float(float value) { return value; }

inline void from_float(float value, float* out) { *out = value; }
inline void from_float(float value, bf16* out) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {  // NaN stays NaN; rounding could turn it into infinity
    out->bits = static_cast<uint16_t>((bits >> 16) | 0x40u);
    return;
  }
  out->bits = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // to nearest, ties to even
}

#if defined(__AVX512F__)

using Float16 = __m512;

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
inline Word16 count_up(uint32_t first) {
  return _mm512_add_epi32(splat_word(first), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
inline Word16 bit_xor(Word16 a, Word16 b) { return _mm512_xor_si512(a, b); }
inline Word16 bit_and(Word16 a, Word16 b) { return _mm512_and_si512(a, b); }
inline Word16 add_words(Word16 a, Word16 b) { return _mm512_add_epi32(a, b); }
inline Word16 sub_words(Word16 a, Word16 b) { return _mm512_sub_epi32(a, b); }
template <int kBits>
inline Word16 shift_signed(Word16 a) { return _mm512_srai_epi32(a, kBits); }
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

#else

struct Float16 {
  float lane[kLanes];
};

#define SPECFLEET_EACH_LANE for (int i = 0; i < kLanes; ++i)
inline Float16 splat(float value) { Float16 r; SPECFLEET_EACH_LANE r.lane[i] = value; return r; }
inline Float16 zeros() { return splat(0.0f); }
inline Float16 load(const float* p) { Float16 r; std::memcpy(r.lane, p, sizeof r.lane); return r; }
inline Float16 load(const bf16* p) { Float16 r; SPECFLEET_EACH_LANE r.lane[i] = to_float(p[i]); return r; }
inline void store(float* p, Float16 v) { std::memcpy(p, v.lane, sizeof v.lane); }
inline Float16 add(Float16 a, Float16 b) { SPECFLEET_EACH_LANE a.lane[i] += b.lane[i]; return a; }
inline Float16 sub(Float16 a, Float16 b) { SPECFLEET_EACH_LANE a.lane[i] -= b.lane[i]; return a; }
inline Float16 mul(Float16 a, Float16 b) { SPECFLEET_EACH_LANE a.lane[i] *= b.lane[i]; return a; }
inline Float16 div(Float16 a, Float16 b) { SPECFLEET_EACH_LANE a.lane[i] /= b.lane[i]; return a; }
inline Float16 fma(Float16 a, Float16 b, Float16 c) {
  SPECFLEET_EACH_LANE c.lane[i] = __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]);
  return c;
}
inline Float16 max(Float16 a, Float16 b) { SPECFLEET_EACH_LANE a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; return a; }
inline Float16 min(Float16 a, Float16 b) { SPECFLEET_EACH_LANE a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; return a; }
inline Float16 round_nearest(Float16 a) { SPECFLEET_EACH_LANE a.lane[i] = __builtin_rintf(a.lane[i]); return a; }
inline Float16 scale_by_power_of_two(Float16 a, Float16 e) {
  SPECFLEET_EACH_LANE a.lane[i] = std::ldexp(a.lane[i], static_cast<int>(e.lane[i]));
  return a;
}
inline Float16 keep_lanes(Float16 v, int first, int last, float other) {
  SPECFLEET_EACH_LANE v.lane[i] = (i >= first && i < last) ? v.lane[i] : other;
  return v;
}

struct Word16 {
  uint32_t lane[kLanes];
};
inline Word16 splat_word(uint32_t value) { Word16 r; SPECFLEET_EACH_LANE r.lane[i] = value; return r; }
inline Word16 count_up(uint32_t first) { Word16 r; SPECFLEET_EACH_LANE r.lane[i] = first + i; return r; }
inline Word16 bit_xor(Word16 a, Word16 b) { SPECFLEET_EACH_LANE a.lane[i] ^= b.lane[i]; return a; }
inline Word16 bit_and(Word16 a, Word16 b) { SPECFLEET_EACH_LANE a.lane[i] &= b.lane[i]; return a; }
inline Word16 add_words(Word16 a, Word16 b) { SPECFLEET_EACH_LANE a.lane[i] += b.lane[i]; return a; }
inline Word16 sub_words(Word16 a, Word16 b) { SPECFLEET_EACH_LANE a.lane[i] -= b.lane[i]; return a; }
template <int kBits>
inline Word16 shift_signed(Word16 a) {
  SPECFLEET_EACH_LANE a.lane[i] = static_cast<uint32_t>(static_cast<int32_t>(a.lane[i]) >> kBits);
  return a;
}
inline void multiply_wide(Word16 a, uint32_t by, Word16* high, Word16* low) {
  SPECFLEET_EACH_LANE {
    const uint64_t product = static_cast<uint64_t>(a.lane[i]) * by;
    high->lane[i] = static_cast<uint32_t>(product >> 32);
    low->lane[i] = static_cast<uint32_t>(product);
  }
}
inline Float16 float_of_unsigned(Word16 a) { Float16 r; SPECFLEET_EACH_LANE r.lane[i] = static_cast<float>(a.lane[i]); return r; }
inline Float16 float_of_signed(Word16 a) { Float16 r; SPECFLEET_EACH_LANE r.lane[i] = static_cast<float>(static_cast<int32_t>(a.lane[i])); return r; }
inline Word16 bits_of(Float16 a) { Word16 r; std::memcpy(r.lane, a.lane, sizeof r.lane); return r; }
inline Float16 float_with_bits(Word16 a) { Float16 r; std::memcpy(r.lane, a.lane, sizeof r.lane); return r; }
inline Float16 negative(Float16 a) { SPECFLEET_EACH_LANE a.lane[i] = -a.lane[i]; return a; }
inline bool any_equal(Float16 a, Float16 b) {
  bool found = false;
  SPECFLEET_EACH_LANE found |= a.lane[i] == b.lane[i];
  return found;
}
inline Float16 where_less(Float16 a, Float16 b, Float16 then, Float16 otherwise) {
  SPECFLEET_EACH_LANE then.lane[i] = a.lane[i] < b.lane[i] ? then.lane[i] : otherwise.lane[i];
  return then;
}
#undef SPECFLEET_EACH_LANE

#endif

// Reductions over the sixteen lanes, in a fixed order (a tree by halves).
inline float sum_lanes(Float16 v) {
  float lane[kLanes];
  store(lane, v);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}
inline float max_lanes(Float16 v) {
  float lane[kLanes];
  store(lane, v);
  float best = lane[0];
  for (int i = 1; i < kLanes; ++i) best = lane[i] > best ? lane[i] : best;
  return best;
}

inline void store(bf16* p, Float16 v) {
#if defined(__AVX512BF16__)
  // The instruction rounds as from_float does, but flushes subnormals; both paths below agree on
  // normal numbers, and only one of them is ever compiled into a library.
  __m256bh half = _mm512_cvtneps_pbh(v);
  std::memcpy(p, &half, 32);
#else
  float lane[kLanes];
  store(lane, v);
  for (int i = 0; i < kLanes; ++i) from_float(lane[i], &p[i]);
#endif
}

// e^x for x <= 88. Range reduction by multiples of ln 2 in two parts, then a polynomial of degree six;
// relative error below 3e-7. Minus infinity gives exactly zero. NaN gives NaN, which is why x is the second operand
// of min and max: both return their second operand where one is NaN.
inline Float16 exp(Float16 x) {
  const Float16 clamped = max(splat(-104.0f), min(splat(88.0f), x));
  const Float16 n = round_nearest(mul(clamped, splat(1.44269504088896341f)));
  Float16 r = fma(n, splat(-0.693359375f), clamped);
  r = fma(n, splat(2.12194440e-4f), r);
  Float16 p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(mul(p, r), r, add(r, splat(1.0f)));
  return scale_by_power_of_two(p, n);
}

// One step of a dot product, for sixteen outputs at once. For float a step is one element of the inner
// dimension, for bf16 it is two, stored side by side for each output.
template <class T>
struct Pair;

template <class T>
struct Pair<const T> : Pair<T> {};

template <>
struct Pair<float> {
  static constexpr int kWidth = 1;
  using Operand = Float16;
  static Operand weights(const float* p) { return load(p); }
  static Operand broadcast(const float* p) { return splat(*p); }
  static Float16 dot(Float16 sum, Operand w, Operand a) { return fma(w, a, sum); }
};

#if defined(__AVX512BF16__)
template <>
struct Pair<bf16> {
  static constexpr int kWidth = 2;
  using Operand = __m512i;
  static Operand weights(const bf16* p) { return _mm512_loadu_si512(p); }
  static Operand broadcast(const bf16* p) {
    int both;
    std::memcpy(&both, p, 4);
    return _mm512_set1_epi32(both);
  }
  static Float16 dot(Float16 sum, Operand w, Operand a) {
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)a);
  }
};
#else
template <>
struct Pair<bf16> {
  static constexpr int kWidth = 2;
  struct Operand {
    Float16 even, odd;
  };
  static Operand weights(const bf16* p) {
    float even[kLanes], odd[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      even[i] = to_float(p[2 * i]);
      odd[i] = to_float(p[2 * i + 1]);
    }
    return {load(even), load(odd)};
  }
  static Operand broadcast(const bf16* p) { return {splat(to_float(p[0])), splat(to_float(p[1]))}; }
  static Float16 dot(Float16 sum, Operand w, Operand a) {
    return fma(w.odd, a.odd, fma(w.even, a.even, sum));
  }
};
#endif

}  // namespace specfleet
