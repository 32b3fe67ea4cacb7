// A step that goes on by itself: a drafter's next row is the best of what it chose at the one before, and needs nobody
// else to say so.
#pragma once
#include "noise.h"
#include "step.h"

namespace specfleet {

// What a row's choice is made of, and where it goes.
struct Choosing {
  const float* final_norm;
  const void* head;  // packed
  int32_t vocab;
  int32_t num_real;  // tokens from here on are padding, and never chosen
  int32_t num_top;
  const Choice* choices;  // [chosen]
  float* logits;          // [most rows chosen at a time, vocab]
  float* values;          // [chosen, num_top]
  int64_t* best;          // [chosen, num_top]
};

// All rows but the last `num_more` together, then these one by one: each is the best below the one before, the first of
// them below choice `below`. Where nothing could be chosen, the rest is left undone, and its choices are -1.
template <class T>
void draft_step(int threads, const Shape& s, const Layer* layers, int num_layers, const Rows& rows, const Buffers& b,
                int64_t* tokens, const void* embedding, const int32_t* chosen, int num_chosen, int num_more, int below,
                const Choosing& how) {
  static thread_local std::vector<float> scratch;
  scratch.resize(how.vocab + 4);
  const auto run = [&](int first, int count, const int32_t* which, int num, int place) {
    const Rows some = rows.part(first, count);
    embed_packed(tokens + first, count, static_cast<const T*>(embedding), s.hidden, b.residual);
    for (int i = 0; i < num_layers; ++i) layer_step<T>(threads, s, layers[i], some, b);
    head_step(threads, s, how.final_norm, static_cast<const T*>(how.head), how.vocab, which, num, b, how.logits);
    for (int64_t i = 0; i < num; ++i)
      choose_row(how.logits + i * how.vocab, how.num_real, 0, how.choices[place + i], how.num_top, scratch.data(),
                 how.values + (place + i) * how.num_top, how.best + (place + i) * how.num_top);
  };
  const int first = rows.count - num_more, place = num_chosen - num_more;
  std::fill(how.best, how.best + static_cast<int64_t>(num_chosen) * how.num_top, -1);
  run(0, first, chosen, place, 0);
  for (int i = 0; i < num_more; ++i) {
    const int64_t token = how.best[static_cast<int64_t>(i == 0 ? below : place + i - 1) * how.num_top];
    if (token < 0) return;
    tokens[first + i] = token;
    const int32_t itself = 0;
    run(first + i, 1, &itself, 1, place + i);
  }
}

}  // namespace specfleet
