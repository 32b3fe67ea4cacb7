// Between the fused QKV projection and attention: optional norm of queries and keys (Qwen3), rotary
// embedding, rounding to the model's type, and keys and values into their slots of the cache.
#pragma once
#include <vector>

#include "norm.h"
#include "paged.h"

namespace specfleet {

// x [head_dim] in place; pairs are (i, i + half), as in the Hugging Face checkpoints.
inline void rotate(float* x, const float* cosines, const float* sines, int head_dim) {
  const int half = head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cosines[i] - b * sines[i];
    x[i + half] = b * cosines[i] + a * sines[i];
  }
}

// qkv [rows, (heads + 2 kv_heads) * head_dim] -> queries [rows, heads, head_dim], and the cache.
// cosines, sines [positions, head_dim / 2]; query_norm, key_norm [head_dim] or null.
template <class T>
void rotary_into_cache(const Member& member, const float* qkv, const Rows& rows, int heads, CacheShape shape,
                       const float* query_norm, const float* key_norm, float eps, const float* cosines,
                       const float* sines, T* queries, T* keys, T* values) {
  const int d = shape.head_dim, all = heads + 2 * shape.kv_heads, half = d / 2;
  static thread_local std::vector<float> head_store;
  static thread_local std::vector<T> key_store;
  head_store.resize(d);
  key_store.resize(d);
  float* head = head_store.data();
  int first, last;
  member.share(rows.count * all, &first, &last);
  for (int item = first; item < last; ++item) {
    const int row = item / all, index = item % all;
    const float* x = qkv + (static_cast<int64_t>(row) * all + index) * d;
    const int64_t slot = rows.write_slots[row];
    if (index >= heads + shape.kv_heads) {
      T* value = value_row(values, shape, slot, index - heads - shape.kv_heads);
      for (int i = 0; i < d; ++i) from_float(x[i], value + i);
      continue;
    }
    const bool is_query = index < heads;
    const float* norm = is_query ? query_norm : key_norm;
    if (norm != nullptr)
      rms_norm_row(x, norm, d, eps, head);
    else
      std::memcpy(head, x, d * sizeof(float));
    const int64_t position = rows.positions[row];
    rotate(head, cosines + position * half, sines + position * half, d);
    T* rounded = is_query ? queries + (static_cast<int64_t>(row) * heads + index) * d : key_store.data();
    for (int i = 0; i < d; ++i) from_float(head[i], rounded + i);
    if (!is_query) write_key(rounded, key_lane(keys, shape, slot, index - heads), d);
  }
}

}  // namespace specfleet
