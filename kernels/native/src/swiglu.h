// silu(gate) * up, with gate and up side by side as the fused projection leaves them.
#pragma once
#include "simd.h"
#include "team.h"

namespace specfleet {

inline Float16 silu(Float16 x) { return div(x, add(splat(1.0f), exp(sub(zeros(), x)))); }

// gate_up [rows, 2 * size] -> out [rows, size]
template <class T>
void swiglu(const Member& member, const float* gate_up, int rows, int size, T* out) {
  const int vectors = (size + kLanes - 1) / kLanes;
  int first, last;
  member.share(rows * vectors, &first, &last);
  for (int item = first; item < last; ++item) {
    const int row = item / vectors, i = item % vectors * kLanes;
    const float* gate = gate_up + static_cast<int64_t>(row) * 2 * size + i;
    const float* up = gate + size;
    T* y = out + static_cast<int64_t>(row) * size + i;
    if (i + kLanes <= size) {
      store(y, mul(silu(load(gate)), load(up)));
      continue;
    }
    float g[kLanes] = {}, u[kLanes] = {}, r[kLanes];
    std::memcpy(g, gate, (size - i) * sizeof(float));
    std::memcpy(u, up, (size - i) * sizeof(float));
    store(r, mul(silu(load(g)), load(u)));
    for (int k = 0; k < size - i; ++k) from_float(r[k], y + k);
  }
}

}  // namespace specfleet
