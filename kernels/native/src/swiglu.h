// silu(gate) * up, with gate and up side by side as the fused projection leaves them.
#pragma once
#include "simd.h"
#include "team.h"

namespace specfleet {

inline Float16 silu(Float16 x) { return div(x, add(splat(1.0f), exp(sub(zeros(), x)))); }

template <class T>
inline void swiglu_row(const float* gate, const float* up, int size, T* out) {
  int i = 0;
  for (; i + kLanes <= size; i += kLanes) store(out + i, mul(silu(load(gate + i)), load(up + i)));
  if (i == size) return;
  float g[kLanes] = {}, u[kLanes] = {}, r[kLanes];
  std::memcpy(g, gate + i, (size - i) * sizeof(float));
  std::memcpy(u, up + i, (size - i) * sizeof(float));
  store(r, mul(silu(load(g)), load(u)));
  for (int k = 0; i + k < size; ++k) from_float(r[k], out + i + k);
}

// gate_up [rows, 2 * size] -> out [rows, size]
template <class T>
void swiglu(int threads, const float* gate_up, int rows, int size, T* out) {
  share_out(threads, rows, size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      swiglu_row(gate_up + row * 2 * size, gate_up + row * 2 * size + size, size, out + row * size);
  });
}

}  // namespace specfleet
