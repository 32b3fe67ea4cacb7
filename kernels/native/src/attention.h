// Attention of each row over its own keys, read in their logical order through block tables.
//
// Why a row's result depends on nothing but its own keys: scores are independent of one another; the
// maximum is exact; the sum of exponentials runs in sixteen lanes by logical position modulo sixteen;
// the weighted sum of values walks logical positions one by one. Where a key lies (in its table's block
// or in a tree slot), which rows share the step, and how many threads work on it never enter.
#pragma once
#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "paged.h"
#include "team.h"

namespace specfleet {

// Query heads that share one reading of their keys and values, with half of the registers for their sums.
constexpr int kMostQueries = kRegisters / 2 < 8 ? kRegisters / 2 : 8;

// How many of something to compute side by side for each of `queries` query heads: one alone would wait for its own
// additions.
constexpr int side_by_side(int queries) {
  constexpr int kMost = 4;
  return kRegisters / 2 / queries < kMost ? kRegisters / 2 / queries : kMost;
}

// work(kCount, first) for runs of 8, 4, 2 or 1 of the items 0..count-1, where kCount is a constant.
template <class Work>
void in_runs(int count, const Work& work) {
  for (int first = 0; first < count;) {
    const int left = count - first;
    if constexpr (kMostQueries >= 8)
      if (left >= 8) {
        work(std::integral_constant<int, 8>{}, first);
        first += 8;
        continue;
      }
    if constexpr (kMostQueries >= 4)
      if (left >= 4) {
        work(std::integral_constant<int, 4>{}, first);
        first += 4;
        continue;
      }
    if (left >= 2) {
      work(std::integral_constant<int, 2>{}, first);
      first += 2;
    } else {
      work(std::integral_constant<int, 1>{}, first);
      first += 1;
    }
  }
}

// One row's view of its keys.
struct KeyView {
  const int32_t* table;
  const int32_t* tail;
  int num_in_table;
  int first;  // first position inside the sliding window
  int count;  // position + 1
  int first_block() const { return first / kBlockTokens; }
  int end_block() const { return (count - 1) / kBlockTokens + 1; }
  // From here on its keys have to be gathered: a block of which it sees more than lies in the table.
  int end_in_order() const { return num_in_table < count ? num_in_table / kBlockTokens : end_block(); }
  int64_t slot(int position) const {
    if (position < num_in_table)
      return static_cast<int64_t>(table[position / kBlockTokens]) * kBlockTokens + position % kBlockTokens;
    return tail[position - num_in_table];
  }
};

inline KeyView view_of(const Rows& rows, int row, int window) {
  const int count = rows.positions[row] + 1;
  return {rows.tables + rows.table_offsets[row], rows.tail_slots + rows.tail_offsets[row], rows.num_in_table[row],
          window > 0 && count > window ? count - window : 0, count};
}

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

// One query head of one row, and how far its attention has come.
template <class T>
struct Query {
  const KeyView* view;
  const typename Pair<T>::Input* input;  // [head_dim]
  float* scores;                         // by logical position: first as they are, then their exponentials
  float* sums;                           // [head_dim] of weighted values
  Float16 highest;
  float inverse;
};

// Scores of the blocks first..last-1, which lie in the same place for all of these queries. With each step over the keys
// a line of the values of the same positions is fetched, which are as many and are wanted next.
template <class T, int kQueries>
void score(Query<T>* queries, int first, int last, float scale, const T* keys, const T* values, CacheShape shape,
           int kv_head) {
  using Step = Pair<T>;
  constexpr int kBlocks = side_by_side(kQueries);
  constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
  static thread_local std::vector<T> gathered;
  if (gathered.size() < static_cast<size_t>(kBlocks * shape.head_size()))
    gathered.assign(kBlocks * shape.head_size(), T{});
  const typename Step::Input* inputs[kQueries];
  for (int q = 0; q < kQueries; ++q) inputs[q] = queries[q].input;
  for (int b = first; b < last; b += kBlocks) {
    const KeyView& view = *queries[0].view;
    const T *blocks[kBlocks], *fetched[kBlocks];
    for (int i = 0; i < kBlocks; ++i) {  // past the last block the last one stands in, and is not stored
      const int block = b + i < last ? b + i : last - 1;
      blocks[i] = b + i < last
                      ? block_of_keys(view, block, keys, shape, kv_head, gathered.data() + i * shape.head_size())
                      : blocks[i - 1];
      fetched[i] = value_row(values, shape, view.slot(block * kBlockTokens), kv_head);
    }
    Float16 sum[kBlocks][kQueries];
    for (int i = 0; i < kBlocks; ++i)
      for (int q = 0; q < kQueries; ++q) sum[i][q] = zeros();
    for (int k = 0; k < shape.head_dim / Step::kWidth; ++k)
      for (int i = 0; i < kBlocks; ++i) {
        const typename Step::Weights w = Step::weights(blocks[i] + k * kBlockTokens * Step::kWidth);
        __builtin_prefetch(fetched[i] + k * kBlockTokens * Step::kWidth);
        for (int q = 0; q < kQueries; ++q) sum[i][q] = Step::dot(sum[i][q], w, inputs[q] + k * Step::kWidth);
      }
    for (int i = 0; i < kBlocks && b + i < last; ++i)
      for (int q = 0; q < kQueries; ++q) {
        const int base = (b + i) * kBlockTokens;
        const KeyView& view = *queries[q].view;
        const Float16 score =
            keep_lanes(mul(sum[i][q], splat(scale)), view.first - base, view.count - base, kMinusInfinity);
        store(queries[q].scores + base, score);
        queries[q].highest = max(queries[q].highest, score);
      }
  }
}

// Scores become weights, but for a factor that is applied at the end.
template <class T>
void exponentials(Query<T>& query) {
  const Float16 top = splat(max_lanes(query.highest));
  Float16 total = zeros();
  for (int i = query.view->first_block() * kBlockTokens; i < query.view->end_block() * kBlockTokens; i += kLanes) {
    const Float16 weight = exp(sub(load(query.scores + i), top));
    store(query.scores + i, weight);
    total = add(total, weight);
  }
  query.inverse = 1.0f / sum_lanes(total);
}

// Adds the weighted values of positions first..last-1, which lie in the same place for all of these queries.
template <class T, int kQueries>
void add_values(Query<T>* queries, int first, int last, const T* values, CacheShape shape, int kv_head) {
  constexpr int kParts = side_by_side(kQueries);  // vectors of the head dimension kept in registers at once
  const KeyView& view = *queries[0].view;
  const int d = shape.head_dim;
  for (int part = 0; part < d; part += kParts * kLanes) {
    const int parts = (d - part + kLanes - 1) / kLanes < kParts ? (d - part + kLanes - 1) / kLanes : kParts;
    Float16 sum[kQueries][kParts];
    for (int q = 0; q < kQueries; ++q)
      for (int v = 0; v < kParts; ++v) sum[q][v] = v < parts ? load(queries[q].sums + part + v * kLanes) : zeros();
    const auto add_value = [&](const T* value, int position) {
      Float16 loaded[kParts];
      for (int v = 0; v < kParts; ++v) loaded[v] = v < parts ? load(value + part + v * kLanes) : zeros();
      for (int q = 0; q < kQueries; ++q) {
        const Float16 weight = splat(queries[q].scores[position]);
        for (int v = 0; v < kParts; ++v) sum[q][v] = fma(weight, loaded[v], sum[q][v]);
      }
    };
    int position = first;
    const int in_order = view.num_in_table < last ? view.num_in_table : last;
    while (position < in_order) {  // block by block, in which values lie one after another
      const int left = kBlockTokens - position % kBlockTokens;
      const int count = left < in_order - position ? left : in_order - position;
      const T* value = value_row(values, shape, view.slot(position), kv_head);
      for (int i = 0; i < count; ++i) add_value(value + static_cast<int64_t>(i) * d, position + i);
      position += count;
    }
    for (; position < last; ++position) add_value(value_row(values, shape, view.slot(position), kv_head), position);
    for (int q = 0; q < kQueries; ++q)
      for (int v = 0; v < parts; ++v) store(queries[q].sums + part + v * kLanes, sum[q][v]);
  }
}

// Rows of one sequence: what all of them see in one place is read once for all, what only some see row by row. Either
// way a query meets its positions in their order.
template <class T>
void attend(const KeyView* views, int rows, int heads, const T* queries, int64_t row_stride, float scale, const T* keys,
            const T* values, CacheShape shape, int kv_head, T* out) {
  constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
  const int d = shape.head_dim, count = rows * heads;
  int first_block = views[0].first_block(), end_block = views[0].end_block();
  int shared_first = first_block, shared_end = views[0].end_in_order();
  int shared_first_value = views[0].first, shared_end_value = std::min(views[0].num_in_table, views[0].count);
  for (int row = 1; row < rows; ++row) {
    const KeyView& view = views[row];
    first_block = std::min(first_block, view.first_block());
    end_block = std::max(end_block, view.end_block());
    shared_first = std::max(shared_first, view.first_block());
    shared_end = std::min(shared_end, view.end_in_order());
    shared_first_value = std::max(shared_first_value, view.first);
    shared_end_value = std::min(shared_end_value, std::min(view.num_in_table, view.count));
  }
  if (shared_end <= shared_first) shared_first = shared_end = 0;
  if (shared_end_value <= shared_first_value) shared_first_value = shared_end_value = 0;

  const int width = (end_block - first_block) * kBlockTokens;
  static thread_local std::vector<float> scores, sums;
  static thread_local std::vector<typename Pair<T>::Input> rooms[kMostQueries];
  if (scores.size() < static_cast<size_t>(count) * width) scores.resize(static_cast<size_t>(count) * width);
  sums.assign(static_cast<size_t>(count) * d, 0.0f);
  Query<T> all[kMostQueries];
  for (int row = 0; row < rows; ++row) {
    const auto* input = as_input(queries + row * row_stride, static_cast<int64_t>(heads) * d, &rooms[row]);
    for (int h = 0; h < heads; ++h) {
      const int q = row * heads + h;
      all[q] = {&views[row], input + h * d, scores.data() + q * width - first_block * kBlockTokens,
                sums.data() + q * d, splat(kMinusInfinity), 0.0f};
    }
  }

  const auto score_row = [&](int row, int first, int last) {
    if (first < last)
      in_runs(heads, [&](auto n, int h) {
        score<T, n>(all + row * heads + h, first, last, scale, keys, values, shape, kv_head);
      });
  };
  const auto add_row = [&](int row, int first, int last) {
    if (first < last)
      in_runs(heads, [&](auto n, int h) {
        add_values<T, n>(all + row * heads + h, first, last, values, shape, kv_head);
      });
  };
  for (int row = 0; row < rows; ++row) score_row(row, views[row].first_block(), shared_first);
  in_runs(count, [&](auto n, int q) {
    score<T, n>(all + q, shared_first, shared_end, scale, keys, values, shape, kv_head);
  });
  for (int row = 0; row < rows; ++row)
    score_row(row, std::max(views[row].first_block(), shared_end), views[row].end_block());
  for (int q = 0; q < count; ++q) exponentials(all[q]);
  for (int row = 0; row < rows; ++row) add_row(row, views[row].first, shared_first_value);
  in_runs(count, [&](auto n, int q) {
    add_values<T, n>(all + q, shared_first_value, shared_end_value, values, shape, kv_head);
  });
  for (int row = 0; row < rows; ++row)
    add_row(row, std::max(views[row].first, shared_end_value), views[row].count);

  for (int q = 0; q < count; ++q)
    for (int i = 0; i < d; i += kLanes)
      store(out + q / heads * row_stride + q % heads * d + i, mul(load(all[q].sums + i), splat(all[q].inverse)));
}

// queries [rows, heads, head_dim] -> out [rows, heads, head_dim]; head_dim a multiple of sixteen.
// window: how many positions a row sees, itself included; 0 for all.
template <class T>
void attention(int threads, const T* queries, const Rows& rows, int heads, CacheShape shape, int window, float scale,
               const T* keys, const T* values, T* out) {
  if (rows.count == 0) return;
  const int group = heads / shape.kv_heads, d = shape.head_dim;
  const int most_rows = group < kMostQueries ? kMostQueries / group : 1;
  // Stretches of rows that read one table; a row of its own for each sequence where there is nothing to share.
  static thread_local std::vector<int> starts;
  starts.clear();
  for (int row = 0; row < rows.count; ++row)
    if (row == 0 || rows.table_offsets[row] != rows.table_offsets[row - 1] || row - starts.back() == most_rows)
      starts.push_back(row);
  const int stretches = static_cast<int>(starts.size());
  starts.push_back(rows.count);
  const int* start = starts.data();  // the caller's: helpers have none of their own
  const int longest = 1 + *std::max_element(rows.positions, rows.positions + rows.count);
  const int64_t cost = static_cast<int64_t>(longest) * group * d * ((rows.count + stretches - 1) / stretches);
  share_out(threads, static_cast<int64_t>(stretches) * shape.kv_heads, cost, [&](int64_t first, int64_t last) {
    // Stretches run fastest, so that a key-value head stays in the nearest cache while its rows pass.
    for (int64_t item = first; item < last; ++item) {
      const int kv_head = static_cast<int>(item / stretches), stretch = static_cast<int>(item % stretches);
      KeyView views[kMostQueries];
      const int first_row = start[stretch], count = start[stretch + 1] - first_row;
      for (int i = 0; i < count; ++i) views[i] = view_of(rows, first_row + i, window);
      for (int h = 0; h < group; h += kMostQueries) {
        const int64_t at = (static_cast<int64_t>(first_row) * heads + kv_head * group + h) * d;
        attend(views, count, std::min(group - h, kMostQueries), queries + at, static_cast<int64_t>(heads) * d, scale,
               keys, values, shape, kv_head, out + at);
      }
    }
  });
}

}  // namespace specfleet
