// Numbers one by one: bfloat16, and how a float becomes one.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

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

}  // namespace specfleet
