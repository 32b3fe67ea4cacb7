// RMSNorm of rows: y = x / sqrt(mean(x^2) + eps) * weight. A row is one piece of work from end to end.
#pragma once
#include "simd.h"
#include "team.h"

namespace specfleet {

// Sum of squares in sixteen running sums, joined at the end; the rest of a ragged row is added last.
inline float mean_of_squares(const float* x, int size) {
  Float16 sums = zeros();
  int i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const Float16 v = load(x + i);
    sums = fma(v, v, sums);
  }
  float total = sum_lanes(sums);
  for (; i < size; ++i) total += x[i] * x[i];
  return total / static_cast<float>(size);
}

template <class T>
inline void rms_norm_row(const float* x, const float* weight, int size, float eps, T* y) {
  const float scale = 1.0f / std::sqrt(mean_of_squares(x, size) + eps);
  const Float16 scales = splat(scale);
  int i = 0;
  for (; i + kLanes <= size; i += kLanes) store(y + i, mul(mul(load(x + i), scales), load(weight + i)));
  for (; i < size; ++i) from_float(x[i] * scale * weight[i], y + i);
}

// x [rows, size] -> y [rows, size]
template <class T>
void rms_norm(int threads, const float* x, const float* weight, int rows, int size, float eps, T* y) {
  share_out(threads, rows, size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      rms_norm_row(x + row * size, weight, size, eps, y + row * size);
  });
}

}  // namespace specfleet
