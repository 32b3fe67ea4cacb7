// Sixteen floats as an array: any processor. The compiler makes vectors of the loops where it can.
#pragma once
#include "numbers.h"

namespace specfleet {

struct Float16 {
  float lane[kLanes];
};

// How many of them one may hope to keep in registers.
constexpr int kRegisters = 8;

#define SPECFLEET_EACH_LANE for (int i = 0; i < kLanes; ++i)
inline Float16 splat(float value) { Float16 r; SPECFLEET_EACH_LANE r.lane[i] = value; return r; }
inline Float16 zeros() { return splat(0.0f); }
inline Float16 load(const float* p) { Float16 r; std::memcpy(r.lane, p, sizeof r.lane); return r; }
inline Float16 load(const bf16* p) { Float16 r; SPECFLEET_EACH_LANE r.lane[i] = to_float(p[i]); return r; }
inline void store(float* p, Float16 v) { std::memcpy(p, v.lane, sizeof v.lane); }
inline void store(bf16* p, Float16 v) { SPECFLEET_EACH_LANE from_float(v.lane[i], &p[i]); }
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
inline Word16 load_words(const void* p) { Word16 r; std::memcpy(r.lane, p, sizeof r.lane); return r; }
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
template <int kBits>
inline Word16 shift_left(Word16 a) { SPECFLEET_EACH_LANE a.lane[i] <<= kBits; return a; }
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

}  // namespace specfleet
