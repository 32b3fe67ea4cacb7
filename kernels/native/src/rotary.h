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

// x [size] to the model's type.
template <class T>
inline void round_row(const float* x, int size, T* out) {
  int i = 0;
  for (; i + kLanes <= size; i += kLanes) store(out + i, load(x + i));
  for (; i < size; ++i) from_float(x[i], out + i);
}

template <class T>
struct Rotary {
  const float* qkv;
  const Rows* rows;
  int heads;
  CacheShape shape;
  const float* query_norm;
  const float* key_norm;
  float eps;
  const float* cosines;
  const float* sines;
  T* queries;
  T* keys;
  T* values;

  // One head of one row: a query, a key or a value.
  void head(int64_t row, int index) const {
    const int d = shape.head_dim, all = heads + 2 * shape.kv_heads;
    const float* x = qkv + (row * all + index) * d;
    const int64_t slot = rows->write_slots[row];
    if (index >= heads + shape.kv_heads) {
      T* value = value_row(values, shape, slot, index - heads - shape.kv_heads);
      round_row(x, d, value);
      return;
    }
    static thread_local std::vector<float> turned_store;
    static thread_local std::vector<T> key_store;
    turned_store.resize(d);
    key_store.resize(d);
    float* turned = turned_store.data();
    const bool is_query = index < heads;
    const float* norm = is_query ? query_norm : key_norm;
    if (norm != nullptr)
      rms_norm_row(x, norm, d, eps, turned);
    else
      std::memcpy(turned, x, d * sizeof(float));
    const int64_t angles = static_cast<int64_t>(rows->positions[row]) * (d / 2);
    rotate(turned, cosines + angles, sines + angles, d);
    T* rounded = is_query ? queries + (row * heads + index) * d : key_store.data();
    round_row(turned, d, rounded);
    if (!is_query) write_key(rounded, key_lane(keys, shape, slot, index - heads), d);
  }
};

// qkv [rows, (heads + 2 kv_heads) * head_dim] -> queries [rows, heads, head_dim], and the cache.
// cosines, sines [positions, head_dim / 2]; query_norm, key_norm [head_dim] or null.
template <class T>
void rotary_into_cache(int threads, const Rotary<T>& rotary) {
  const int all = rotary.heads + 2 * rotary.shape.kv_heads;
  share_out(threads, rotary.rows->count, static_cast<int64_t>(all) * rotary.shape.head_dim,
            [&](int64_t first, int64_t last) {
              for (int64_t row = first; row < last; ++row)
                for (int index = 0; index < all; ++index) rotary.head(row, index);
            });
}

}  // namespace specfleet
