// The layout of the paged key-value cache, and where a row finds its keys in it.
//
// Blocks hold sixteen tokens. Keys are stored so that one vector holds the same element (two elements
// for bf16) of sixteen consecutive tokens: a block of scores is then a dot product like any other.
// Values are stored token by token.
//
//   keys   [blocks, kv_heads, head_dim / w, 16, w]   w = 1 for float, 2 for bf16
//   values [blocks, kv_heads, 16, head_dim]
#pragma once
#include "simd.h"

namespace specfleet {

constexpr int kBlockTokens = 16;

struct CacheShape {
  int kv_heads;
  int head_dim;
  int64_t head_size() const { return static_cast<int64_t>(kBlockTokens) * head_dim; }
  int64_t block_size() const { return head_size() * kv_heads; }
};

// All sequences' rows of one step. A row at position p sees p + 1 keys: the first `num_in_table` logical
// positions through its sequence's block table, the rest (tree ancestors that do not lie in order,
// itself last) through its list of tail slots.
struct Rows {
  int32_t count;
  const int32_t* positions;      // [count]
  const int32_t* write_slots;    // [count] where this row's own key and value go
  const int32_t* num_in_table;   // [count]
  const int32_t* table_offsets;  // [count] start of the row's table in `tables`
  const int32_t* tables;         // block numbers, all sequences' tables one after another
  const int32_t* tail_offsets;   // [count + 1]
  const int32_t* tail_slots;     // [tail_offsets[count]]

  // Some of them, one after another.
  Rows part(int first, int number) const {
    return {number, positions + first,     write_slots + first,  num_in_table + first, table_offsets + first,
            tables, tail_offsets + first, tail_slots};
  }
};

template <class T>
inline T* key_lane(T* cache, const CacheShape& shape, int64_t slot, int kv_head) {
  return cache + (slot / kBlockTokens) * shape.block_size() + kv_head * shape.head_size() +
         (slot % kBlockTokens) * Pair<T>::kWidth;
}

template <class T>
inline T* value_row(T* cache, const CacheShape& shape, int64_t slot, int kv_head) {
  return cache + (slot / kBlockTokens) * shape.block_size() + kv_head * shape.head_size() +
         (slot % kBlockTokens) * shape.head_dim;
}

template <class T>
inline void copy_key(const T* from, T* to, int head_dim) {
  constexpr int kWidth = Pair<T>::kWidth;
  for (int i = 0; i < head_dim / kWidth; ++i)
    std::memcpy(to + i * kBlockTokens * kWidth, from + i * kBlockTokens * kWidth, kWidth * sizeof(T));
}

template <class T>
inline void write_key(const T* key, T* lane, int head_dim) {
  constexpr int kWidth = Pair<T>::kWidth;
  for (int i = 0; i < head_dim / kWidth; ++i)
    std::memcpy(lane + i * kBlockTokens * kWidth, key + i * kWidth, kWidth * sizeof(T));
}

}  // namespace specfleet
