// A whole forward step, or a part of it, without returning to Python: the same operations in the same
// order as engine/model.py, so that both give the same bits.
#pragma once
#include "attention.h"
#include "linear.h"
#include "norm.h"
#include "rotary.h"
#include "swiglu.h"

namespace specfleet {

struct Shape {
  int32_t hidden, heads, kv_heads, head_dim, mlp;
  float eps;
};

struct Layer {
  const float* attention_norm;
  const void* qkv;  // packed
  const float* qkv_bias;
  const float* query_norm;
  const float* key_norm;
  const void* output;  // packed
  const float* output_bias;
  const float* mlp_norm;
  const void* gate_up;  // packed
  const void* down;     // packed
  void* keys;
  void* values;
  int64_t window;
};

struct Buffers {
  float* residual;  // [rows, hidden]
  void* normed;     // [rows, hidden]
  float* qkv;       // [rows, (heads + 2 kv_heads) * head_dim]
  void* queries;    // [rows, heads * head_dim]
  void* attended;   // [rows, heads * head_dim]
  float* gate_up;   // [rows, 2 * mlp]
  void* activated;  // [rows, mlp]
  const float* cosines;
  const float* sines;
};

// A step of its own, after the sum over ranks where there are several: x + (a + b) is not (x + a) + b.
inline void add_to_rows(const float* bias, int rows, int size, float* x) {
  for (int64_t row = 0; row < rows; ++row)
    for (int i = 0; i < size; ++i) x[row * size + i] += bias[i];
}

template <class T>
void layer_step(int threads, const Shape& s, const Layer& layer, const Rows& rows, const Buffers& b) {
  const CacheShape cache{s.kv_heads, s.head_dim};
  const int n = rows.count, attended_size = s.heads * s.head_dim;
  // Rounded once, at the end, as Python's head_dim**-0.5 is: an early rounding shows for head_dim 96 and 112.
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim)));
  T *normed = static_cast<T*>(b.normed), *queries = static_cast<T*>(b.queries);
  T *attended = static_cast<T*>(b.attended), *activated = static_cast<T*>(b.activated);
  T *keys = static_cast<T*>(layer.keys), *values = static_cast<T*>(layer.values);

  rms_norm(threads, b.residual, layer.attention_norm, n, s.hidden, s.eps, normed);
  linear(threads, normed, n, s.hidden, static_cast<const T*>(layer.qkv), layer.qkv_bias,
         attended_size + 2 * s.kv_heads * s.head_dim, Epilogue::kStore, b.qkv);
  rotary_into_cache(threads, Rotary<T>{b.qkv, &rows, s.heads, cache, layer.query_norm, layer.key_norm, s.eps,
                                       b.cosines, b.sines, queries, keys, values});
  attention<T>(threads, queries, rows, s.heads, cache, static_cast<int>(layer.window), scale, keys, values, attended);
  linear<T>(threads, attended, n, attended_size, static_cast<const T*>(layer.output), nullptr, s.hidden,
            Epilogue::kAdd, b.residual);
  if (layer.output_bias != nullptr) add_to_rows(layer.output_bias, n, s.hidden, b.residual);

  rms_norm(threads, b.residual, layer.mlp_norm, n, s.hidden, s.eps, normed);
  linear(threads, normed, n, s.hidden, static_cast<const T*>(layer.gate_up), nullptr, 2 * s.mlp, Epilogue::kStore,
         b.gate_up);
  swiglu(threads, b.gate_up, n, s.mlp, activated);
  linear<T>(threads, activated, n, s.mlp, static_cast<const T*>(layer.down), nullptr, s.hidden, Epilogue::kAdd,
            b.residual);
}

// Rows of the packed, tied or untied, embedding: table [vocab, hidden] in linear's packed layout.
template <class T>
void embed_packed(const int64_t* tokens, int rows, const T* packed, int hidden, float* out) {
  constexpr int kWidth = Pair<T>::kWidth;
  for (int64_t row = 0; row < rows; ++row) {
    const T* base = packed + packed_index<T>(static_cast<int>(tokens[row]), 0, hidden);
    for (int k = 0; k < hidden; ++k)
      out[row * hidden + k] =
          to_float(base[static_cast<int64_t>(k / kWidth) * kBlockOutputs * kWidth + k % kWidth]);
  }
}

// The head of the model on chosen rows: final norm, then logits [num_chosen, vocab].
template <class T>
void head_step(int threads, const Shape& s, const float* final_norm, const T* head, int vocab, const int32_t* chosen,
               int num_chosen, const Buffers& b, float* logits) {
  T* normed = static_cast<T*>(b.normed);
  for (int64_t i = 0; i < num_chosen; ++i)
    rms_norm_row(b.residual + static_cast<int64_t>(chosen[i]) * s.hidden, final_norm, s.hidden, s.eps,
                 normed + i * s.hidden);
  linear(threads, normed, num_chosen, s.hidden, head, nullptr, vocab, Epilogue::kStore, logits);
}

}  // namespace specfleet
