// Shared noise and the choice it makes: the definition in kernels/noise.py, bit for bit.
//
// Only integer arithmetic and single IEEE additions and multiplications of float, in a fixed order and
// never fused, so that every device that follows the same steps gets the same bits.
#pragma once
#include <limits>

#include "simd.h"
#include "team.h"

namespace specfleet {

constexpr int kPhiloxRounds = 10;

// Philox 4x32 for sixteen consecutive counters (one counter serves four tokens).
inline void philox(uint64_t seed, uint64_t position, uint32_t first_counter, Word16 out[4]) {
  Word16 c0 = count_up(first_counter), c1 = splat_word(static_cast<uint32_t>(position));
  Word16 c2 = splat_word(static_cast<uint32_t>(position >> 32)), c3 = splat_word(0);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    Word16 a_high, a_low, b_high, b_low;
    multiply_wide(c0, 0xD2511F53u, &a_high, &a_low);
    multiply_wide(c2, 0xCD9E8D57u, &b_high, &b_low);
    c0 = bit_xor(bit_xor(b_high, c1), splat_word(k0));
    c2 = bit_xor(bit_xor(a_high, c3), splat_word(k1));
    c1 = b_low;
    c3 = a_low;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

// ln((1 + z) * 2^e) for z in [-0.293, 0.415]
inline Float16 log_polynomial(Float16 z, Float16 e) {
  constexpr float kCoefficients[] = {-1.1514610310e-1f, 1.1676998740e-1f,  -1.2420140846e-1f, 1.4249322787e-1f,
                                     -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
  Float16 p = splat(7.0376836292e-2f);
  for (float coefficient : kCoefficients) p = add(mul(p, z), splat(coefficient));
  const Float16 square = mul(z, z);
  Float16 r = mul(mul(p, z), square);
  r = add(r, mul(e, splat(-2.12194440e-4f)));
  r = add(r, mul(square, splat(-0.5f)));
  r = add(z, r);
  return add(r, mul(e, splat(0.693359375f)));
}

// x = (1 + z) * 2^e with 1 + z in [sqrt(1/2), sqrt(2)), by its bits; x positive and normal.
inline void split(Float16 x, Float16* z, Float16* e) {
  const Word16 root = splat_word(0x3f3504f3u);  // the bits of sqrt(1/2)
  const Word16 shifted = sub_words(bits_of(x), root);
  *e = float_of_signed(shift_signed<23>(shifted));
  *z = sub(float_with_bits(add_words(bit_and(shifted, splat_word(0x007fffffu)), root)), splat(1.0f));
}

// Gumbel noise from 32 random bits: -ln(-ln(u)), exact in both tails because near u = 1 the distance
// to one is taken from the complement of the bits and never formed by subtraction.
inline Float16 gumbel(Word16 bits) {
  const Float16 half = splat(0.5f), unit = splat(2.3283064365386963e-10f), quarter = splat(0.25f);
  const Float16 below = mul(add(float_of_unsigned(bits), half), unit);
  const Float16 above = mul(add(float_of_unsigned(bit_xor(bits, splat_word(0xffffffffu))), half), unit);
  Float16 z, e;
  split(below, &z, &e);
  z = where_less(above, quarter, negative(above), z);
  e = where_less(above, quarter, zeros(), e);
  const Float16 exponential = negative(log_polynomial(z, e));
  split(exponential, &z, &e);
  return negative(log_polynomial(z, e));
}

// noise [last - first] for tokens first..last-1; first a multiple of four.
inline void noise_range(uint64_t seed, uint64_t position, int first, int last, float* noise) {
  for (int64_t token = first; token < last; token += 4 * kLanes) {
    Word16 words[4];
    philox(seed, position, static_cast<uint32_t>(token / 4), words);
    float values[4][kLanes];
    for (int w = 0; w < 4; ++w) store(values[w], gumbel(words[w]));
    const int count = last - token < 4 * kLanes ? static_cast<int>(last - token) : 4 * kLanes;
    float* out = noise + (token - first);
    if (count == 4 * kLanes)
      for (int i = 0; i < kLanes; ++i)
        for (int w = 0; w < 4; ++w) out[4 * i + w] = values[w][i];
    else
      for (int i = 0; i < count; ++i) out[i] = values[i % 4][i / 4];
  }
}

// How one row of logits becomes a choice.
struct Choice {
  uint64_t seed;
  uint64_t position;
  float inverse_temperature;
  float threshold;  // scaled logits below it do not take part
  int32_t noisy;    // 0 or 1
  int32_t reserved;
};

// The num_top largest values of logits * inverse_temperature + noise, best first, ties to the smaller
// token. logits [size] of the tokens first_token.. (a vocabulary shard); scratch [size + 4].
inline void choose_row(const float* logits, int size, int first_token, const Choice& choice, int num_top,
                       float* scratch, float* values, int64_t* tokens) {
  constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
  // Copies of their own: the compiler must not fear that writing scratch changes them.
  const float inverse_temperature = choice.inverse_temperature, threshold = choice.threshold;
  if (choice.noisy != 0) {
    const int aligned = first_token & ~3;
    noise_range(choice.seed, choice.position, aligned, first_token + size, scratch);
    const float* noise = scratch + (first_token - aligned);
    for (int i = 0; i < size; ++i) {
      const float scaled = logits[i] * inverse_temperature;
      const float sum = scaled + noise[i];
      scratch[i] = scaled >= threshold ? sum : kMinusInfinity;
    }
  } else {
    for (int i = 0; i < size; ++i) {
      const float scaled = logits[i] * inverse_temperature;
      scratch[i] = scaled >= threshold ? scaled : kMinusInfinity;
    }
  }
  for (int top = 0; top < num_top; ++top) {
    Float16 highest = splat(kMinusInfinity);
    int i = 0;
    for (; i + kLanes <= size; i += kLanes) highest = max(highest, load(scratch + i));
    float best = max_lanes(highest);
    for (; i < size; ++i) best = scratch[i] > best ? scratch[i] : best;
    int at = 0;
    while (at + kLanes <= size && !any_equal(load(scratch + at), splat(best))) at += kLanes;
    while (at < size && scratch[at] != best) ++at;
    const bool found = at < size && best > kMinusInfinity;
    values[top] = found ? best : kMinusInfinity;
    tokens[top] = found ? first_token + at : -1;
    if (found) scratch[at] = kMinusInfinity;
  }
}

// max and sum of exp(x - max), in sixteen lanes. Where nothing takes part (all minus infinity) the sum is zero.
inline void log_sum_parts(const float* x, int size, float* highest_out, float* sum_out) {
  Float16 highest = splat(-std::numeric_limits<float>::infinity());
  int i = 0;
  for (; i + kLanes <= size; i += kLanes) highest = max(highest, load(x + i));
  float top = max_lanes(highest);
  for (; i < size; ++i) top = x[i] > top ? x[i] : top;
  Float16 total = zeros();
  for (i = 0; i + kLanes <= size; i += kLanes) total = add(total, exp(sub(load(x + i), splat(top))));
  if (i < size) {
    float rest[kLanes];
    for (int k = 0; k < kLanes; ++k)
      rest[k] = i + k < size ? x[i + k] : -std::numeric_limits<float>::infinity();
    total = add(total, exp(sub(load(rest), splat(top))));
  }
  *highest_out = top;
  *sum_out = top == -std::numeric_limits<float>::infinity() ? 0.0f : sum_lanes(total);
}

}  // namespace specfleet
