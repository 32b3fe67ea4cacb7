// Sixteen floats at a time, the same arithmetic on every machine that has them.
//
// Everything here is written so that the result of one lane depends on that lane's inputs and on the
// order of the calls, never on how the compiler grouped them: the library is built with
// -ffp-contract=off, and where a fused multiply-add is wanted it is asked for by name.
#pragma once
#include <vector>

#if defined(__AVX512F__)
#include "simd_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "simd_avx2.h"
#else
#include "simd_portable.h"
#endif

namespace specfleet {

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
// dimension, for bf16 it is two, stored side by side for each output. Input is the type in which a dot product
// reads its other side: where no instruction multiplies bf16, rows become float once and not once a block.
template <class T>
struct Pair;

template <class T>
struct Pair<const T> : Pair<T> {};

template <>
struct Pair<float> {
  static constexpr int kWidth = 1;
  using Input = float;
  using Weights = Float16;
  static Weights weights(const float* p) { return load(p); }
  static Float16 dot(Float16 sum, Weights w, const float* x) { return fma(w, splat(*x), sum); }
};

#if defined(__AVX512BF16__)
template <>
struct Pair<bf16> {
  static constexpr int kWidth = 2;
  using Input = bf16;
  using Weights = __m512i;
  static Weights weights(const bf16* p) { return _mm512_loadu_si512(p); }
  static Float16 dot(Float16 sum, Weights w, const bf16* x) {
    int both;
    std::memcpy(&both, x, 4);
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)_mm512_set1_epi32(both));
  }
};
#else
template <>
struct Pair<bf16> {
  static constexpr int kWidth = 2;
  using Input = float;
  struct Weights {
    Float16 even, odd;
  };
  static Weights weights(const bf16* p) {
    const Word16 both = load_words(p);  // the even element is the lower half of each word
    return {float_with_bits(shift_left<16>(both)), float_with_bits(bit_and(both, splat_word(0xffff0000u)))};
  }
  static Float16 dot(Float16 sum, Weights w, const float* x) {
    return fma(w.odd, splat(x[1]), fma(w.even, splat(x[0]), sum));
  }
};
#endif

// x as a dot product reads it: itself, or its values as floats in `room`.
template <class T>
inline const T* as_input(const T* x, int64_t, std::vector<T>*) {
  return x;
}
inline const float* as_input(const bf16* x, int64_t size, std::vector<float>* room) {
  if (room->size() < static_cast<size_t>(size)) room->resize(size);
  float* out = room->data();
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) store(out + i, load(x + i));
  for (; i < size; ++i) out[i] = to_float(x[i]);
  return out;
}

}  // namespace specfleet
