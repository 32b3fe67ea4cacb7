// The C face of the library: one function an operation, and one for a whole step.
// `kind` is 0 for float, 1 for bf16; every pointer is to contiguous memory of the documented shape.
#include "draft.h"

using namespace specfleet;

namespace {

template <class Work>
void dispatch(int kind, const Work& work) {
  if (kind == 0)
    work(float{});
  else
    work(bf16{});
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// Bumped with every change of a signature or a layout.
int specfleet_version() { return 3; }

// 1 where the machine multiplies pairs of bf16 in one instruction.
int specfleet_has_bf16_dot() {
#if defined(__AVX512BF16__)
  return 1;
#else
  return 0;
#endif
}

void specfleet_after_fork() { Team::instance().forget_helpers(); }

int64_t specfleet_packed_size(int kind, int outputs, int inner) {
  int64_t size = 0;
  dispatch(kind, [&](auto zero) {
    size = packed_block_size<decltype(zero)>(inner) * ((outputs + kBlockOutputs - 1) / kBlockOutputs);
  });
  return size;
}

void specfleet_pack(int kind, int threads, const void* weight, int64_t row_stride, int outputs, int inner,
                    void* packed) {
  dispatch(kind, [&](auto zero) {
    using T = decltype(zero);
    pack_weight(threads, static_cast<const T*>(weight), row_stride, outputs, inner, static_cast<T*>(packed));
  });
}

void specfleet_linear(int kind, int threads, const void* x, int rows, int inner, const void* packed,
                      const float* bias, int outputs, int add_to_output, float* y) {
  dispatch(kind, [&](auto zero) {
    using T = decltype(zero);
    linear(threads, static_cast<const T*>(x), rows, inner, static_cast<const T*>(packed), bias, outputs,
           add_to_output != 0 ? Epilogue::kAdd : Epilogue::kStore, y);
  });
}

void specfleet_embed(int kind, const int64_t* tokens, int rows, const void* packed, int hidden, float* out) {
  dispatch(kind, [&](auto zero) {
    using T = decltype(zero);
    embed_packed(tokens, rows, static_cast<const T*>(packed), hidden, out);
  });
}

void specfleet_rms_norm(int kind, int threads, const float* x, const float* weight, int rows, int size, float eps,
                        void* y) {
  dispatch(kind, [&](auto zero) {
    using T = decltype(zero);
    rms_norm(threads, x, weight, rows, size, eps, static_cast<T*>(y));
  });
}

void specfleet_rotary_into_cache(int kind, int threads, const float* qkv, const Rows* rows, int heads, int kv_heads,
                                 int head_dim, const float* query_norm, const float* key_norm, float eps,
                                 const float* cosines, const float* sines, void* queries, void* keys, void* values) {
  dispatch(kind, [&](auto zero) {
    using T = decltype(zero);
    rotary_into_cache(threads, Rotary<T>{qkv, rows, heads, CacheShape{kv_heads, head_dim}, query_norm, key_norm, eps,
                                         cosines, sines, static_cast<T*>(queries), static_cast<T*>(keys),
                                         static_cast<T*>(values)});
  });
}

void specfleet_attention(int kind, int threads, const void* queries, const Rows* rows, int heads, int kv_heads,
                         int head_dim, int window, float scale, const void* keys, const void* values, void* out) {
  dispatch(kind, [&](auto zero) {
    using T = decltype(zero);
    attention(threads, static_cast<const T*>(queries), *rows, heads, CacheShape{kv_heads, head_dim}, window, scale,
              static_cast<const T*>(keys), static_cast<const T*>(values), static_cast<T*>(out));
  });
}

void specfleet_swiglu(int kind, int threads, const float* gate_up, int rows, int size, void* out) {
  dispatch(kind, [&](auto zero) {
    using T = decltype(zero);
    swiglu(threads, gate_up, rows, size, static_cast<T*>(out));
  });
}

// Layers first..last-1 over all rows, then, where head is given, logits of the chosen rows.
// tokens is given where the step begins with the embedding.
void specfleet_step(int kind, int threads, const Shape* shape, const Layer* layers, int first, int last,
                    const Rows* rows, const Buffers* buffers, const int64_t* tokens, const void* embedding,
                    const float* final_norm, const void* head, int vocab, const int32_t* chosen, int num_chosen,
                    float* logits) {
  dispatch(kind, [&](auto zero) {
    using T = decltype(zero);
    if (tokens != nullptr)
      embed_packed(tokens, rows->count, static_cast<const T*>(embedding), shape->hidden, buffers->residual);
    for (int i = first; i < last; ++i) layer_step<T>(threads, *shape, layers[i], *rows, *buffers);
    if (head != nullptr)
      head_step(threads, *shape, final_norm, static_cast<const T*>(head), vocab, chosen, num_chosen, *buffers, logits);
  });
}

// All layers, in draft.h's manner. tokens of the last num_more rows are written.
void specfleet_draft(int kind, int threads, const Shape* shape, const Layer* layers, int num_layers, const Rows* rows,
                     const Buffers* buffers, int64_t* tokens, const void* embedding, const int32_t* chosen,
                     int num_chosen, int num_more, int below, const Choosing* how) {
  dispatch(kind, [&](auto zero) {
    draft_step<decltype(zero)>(threads, *shape, layers, num_layers, *rows, *buffers, tokens, embedding, chosen,
                               num_chosen, num_more, below, *how);
  });
}

void specfleet_noise(uint64_t seed, uint64_t position, int first, int last, float* noise) {
  noise_range(seed, position, first, last, noise);
}

// logits [rows, size] -> values, tokens [rows, num_top]
void specfleet_choose(int threads, const float* logits, int rows, int size, int first_token, const Choice* choices,
                      int num_top, float* values, int64_t* tokens) {
  share_out(threads, rows, size, [&](int64_t first, int64_t last) {
    static thread_local std::vector<float> scratch;
    scratch.resize(size + 4);
    for (int64_t row = first; row < last; ++row)
      choose_row(logits + row * size, size, first_token, choices[row], num_top, scratch.data(),
                 values + row * num_top, tokens + row * num_top);
  });
}

// x [rows, size] -> parts [rows, 2]: the largest value, and the sum of exp(x - largest)
void specfleet_log_sum(int threads, const float* x, int rows, int size, float* parts) {
  share_out(threads, rows, size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      log_sum_parts(x + row * size, size, parts + 2 * row, parts + 2 * row + 1);
  });
}

}  // extern "C"
#pragma GCC visibility pop
