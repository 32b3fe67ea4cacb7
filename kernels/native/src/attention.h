// Attention of each row over its own keys, read in their logical order through block tables.
//
// Why a row's result depends on nothing but its own keys: scores are independent of one another; the
// maximum is exact; the sum of exponentials runs in sixteen lanes by logical position modulo sixteen;
// the weighted sum of values walks logical positions one by one. Where a key lies (in its table's block
// or in a tree slot), which rows share the step, and how many threads work on it never enter.
#pragma once
#include <limits>
#include <vector>

#include "paged.h"
#include "team.h"

namespace specfleet {

// How many of something to compute side by side for each of `heads` query heads, with half of the registers for sums:
// one alone would wait for its own additions.
constexpr int side_by_side(int heads) {
  constexpr int kMost = 4;
  return kRegisters / 2 / heads < kMost ? kRegisters / 2 / heads : kMost;
}

// One row's view of its keys.
struct KeyView {
  const int32_t* table;
  const int32_t* tail;
  int num_in_table;
  int first;  // first position inside the sliding window
  int count;  // position + 1
  int64_t slot(int position) const {
    if (position < num_in_table)
      return static_cast<int64_t>(table[position / kBlockTokens]) * kBlockTokens + position % kBlockTokens;
    return tail[position - num_in_table];
  }
};

// The keys of logical block `b` in block layout: the cache's own block where all of it is in order,
// otherwise gathered into `scratch` lane by lane.
template <class T>
inline const T* block_of_keys(const KeyView& view, int b, const T* keys, CacheShape shape, int kv_head, T* scratch) {
  const int base = b * kBlockTokens;
  const int end = view.count < base + kBlockTokens ? view.count : base + kBlockTokens;
  if (end <= view.num_in_table)
    return keys + static_cast<int64_t>(view.table[b]) * shape.block_size() + kv_head * shape.head_size();
  for (int position = base; position < end; ++position)
    copy_key(key_lane(keys, shape, view.slot(position), kv_head), scratch + (position - base) * Pair<T>::kWidth,
             shape.head_dim);
  return scratch;
}

// Query heads of one row that share a key-value head: queries [kHeads, head_dim] -> out [kHeads, head_dim].
template <class T, int kHeads>
void attend(const KeyView& view, const T* queries, float scale, const T* keys, const T* values, CacheShape shape,
            int kv_head, T* out) {
  using Step = Pair<T>;
  constexpr int kBlocksTogether = side_by_side(kHeads);
  constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
  const int d = shape.head_dim;
  const int first_block = view.first / kBlockTokens, last_block = (view.count - 1) / kBlockTokens;
  const int width = (last_block - first_block + 1) * kBlockTokens;
  static thread_local std::vector<float> score_store;
  static thread_local std::vector<T> gathered_store;
  static thread_local std::vector<typename Step::Input> input_store;
  const typename Step::Input* input = as_input(queries, kHeads * d, &input_store);
  if (score_store.size() < static_cast<size_t>(kHeads) * width) score_store.resize(static_cast<size_t>(kHeads) * width);
  if (gathered_store.size() < static_cast<size_t>(kBlocksTogether * shape.head_size()))
    gathered_store.assign(kBlocksTogether * shape.head_size(), T{});
  float* scores = score_store.data();

  Float16 highest[kHeads];
  for (int h = 0; h < kHeads; ++h) highest[h] = splat(kMinusInfinity);
  for (int b = first_block; b <= last_block; b += kBlocksTogether) {
    const T* blocks[kBlocksTogether];
    for (int i = 0; i < kBlocksTogether; ++i)  // past the last block the last one stands in, and is not stored
      blocks[i] = b + i > last_block
                      ? blocks[i - 1]
                      : block_of_keys(view, b + i, keys, shape, kv_head, gathered_store.data() + i * shape.head_size());
    Float16 sum[kBlocksTogether][kHeads];
    for (int i = 0; i < kBlocksTogether; ++i)
      for (int h = 0; h < kHeads; ++h) sum[i][h] = zeros();
    for (int k = 0; k < d / Step::kWidth; ++k)
      for (int i = 0; i < kBlocksTogether; ++i) {
        const typename Step::Weights w = Step::weights(blocks[i] + k * kBlockTokens * Step::kWidth);
        for (int h = 0; h < kHeads; ++h) sum[i][h] = Step::dot(sum[i][h], w, input + h * d + k * Step::kWidth);
      }
    for (int i = 0; i < kBlocksTogether && b + i <= last_block; ++i) {
      const int base = (b + i) * kBlockTokens;
      for (int h = 0; h < kHeads; ++h) {
        const Float16 score =
            keep_lanes(mul(sum[i][h], splat(scale)), view.first - base, view.count - base, kMinusInfinity);
        store(scores + h * width + base - first_block * kBlockTokens, score);
        highest[h] = max(highest[h], score);
      }
    }
  }

  float inverse[kHeads];
  for (int h = 0; h < kHeads; ++h) {
    const Float16 top = splat(max_lanes(highest[h]));
    Float16 total = zeros();
    for (int i = 0; i < width; i += kLanes) {
      const Float16 weight = exp(sub(load(scores + h * width + i), top));
      store(scores + h * width + i, weight);
      total = add(total, weight);
    }
    inverse[h] = 1.0f / sum_lanes(total);
  }

  constexpr int kParts = side_by_side(kHeads);  // vectors of the head dimension kept in registers at once
  const float* weights = scores - first_block * kBlockTokens;
  for (int part = 0; part < d; part += kParts * kLanes) {
    const int parts = (d - part + kLanes - 1) / kLanes < kParts ? (d - part + kLanes - 1) / kLanes : kParts;
    Float16 sum[kHeads][kParts];
    for (int h = 0; h < kHeads; ++h)
      for (int v = 0; v < kParts; ++v) sum[h][v] = zeros();
    const auto add_value = [&](const T* value, int position) {
      Float16 loaded[kParts];
      for (int v = 0; v < kParts; ++v) loaded[v] = v < parts ? load(value + part + v * kLanes) : zeros();
      for (int h = 0; h < kHeads; ++h) {
        const Float16 weight = splat(weights[h * width + position]);
        for (int v = 0; v < kParts; ++v) sum[h][v] = fma(weight, loaded[v], sum[h][v]);
      }
    };
    int position = view.first;
    const int in_order = view.num_in_table < view.count ? view.num_in_table : view.count;
    while (position < in_order) {  // block by block, in which values lie one after another
      const int left = kBlockTokens - position % kBlockTokens;
      const int count = left < in_order - position ? left : in_order - position;
      const T* value = value_row(values, shape, view.slot(position), kv_head);
      for (int i = 0; i < count; ++i) add_value(value + static_cast<int64_t>(i) * d, position + i);
      position += count;
    }
    for (; position < view.count; ++position)
      add_value(value_row(values, shape, view.slot(position), kv_head), position);
    for (int h = 0; h < kHeads; ++h)
      for (int v = 0; v < parts; ++v)
        store(out + h * d + part + v * kLanes, mul(sum[h][v], splat(inverse[h])));
  }
}

// All query heads of one row that share a key-value head.
template <class T>
void attend_group(const KeyView& view, const T* queries, int group, float scale, const T* keys, const T* values,
                  CacheShape shape, int kv_head, T* out) {
  for (int h = 0; h < group;) {
    const int64_t at = static_cast<int64_t>(h) * shape.head_dim;
    const int left = group - h;
    if (left >= 4) {
      attend<T, 4>(view, queries + at, scale, keys, values, shape, kv_head, out + at);
      h += 4;
    } else if (left >= 2) {
      attend<T, 2>(view, queries + at, scale, keys, values, shape, kv_head, out + at);
      h += 2;
    } else {
      attend<T, 1>(view, queries + at, scale, keys, values, shape, kv_head, out + at);
      h += 1;
    }
  }
}

// queries [rows, heads, head_dim] -> out [rows, heads, head_dim]; head_dim a multiple of sixteen.
// window: how many positions a row sees, itself included; 0 for all.
template <class T>
void attention(int threads, const T* queries, const Rows& rows, int heads, CacheShape shape, int window, float scale,
               const T* keys, const T* values, T* out) {
  if (rows.count == 0) return;
  const int group = heads / shape.kv_heads, d = shape.head_dim;
  const int64_t items = static_cast<int64_t>(rows.count) * shape.kv_heads;
  int longest = 0;
  for (int row = 0; row < rows.count; ++row) longest = rows.positions[row] > longest ? rows.positions[row] : longest;
  const int64_t cost = static_cast<int64_t>(longest + 1) * group * d;
  share_out(threads, items, cost, [&](int64_t first, int64_t last) {
    // Rows run fastest, so that a key-value head stays in the nearest cache while its rows pass.
    for (int64_t item = first; item < last; ++item) {
      const int kv_head = static_cast<int>(item / rows.count), row = static_cast<int>(item % rows.count);
      KeyView view;
      view.table = rows.tables + rows.table_offsets[row];
      view.tail = rows.tail_slots + rows.tail_offsets[row];
      view.num_in_table = rows.num_in_table[row];
      view.count = rows.positions[row] + 1;
      view.first = window > 0 && view.count > window ? view.count - window : 0;
      const int64_t at = (static_cast<int64_t>(row) * heads + kv_head * group) * d;
      attend_group(view, queries + at, group, scale, keys, values, shape, kv_head, out + at);
    }
  });
}

}  // namespace specfleet
