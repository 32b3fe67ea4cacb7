// y = x W^T (+ bias), for any number of rows, with the weights laid out for streaming.
//
// Packed layout: the outputs in blocks of 32; in a block, for each step of the inner dimension (one
// element of float, two of bf16), two vectors of sixteen outputs. One block is one forward stream
// through memory, read once for up to eight rows.
//
// Why a row's result does not depend on its neighbours: every output is one accumulator that walks the
// inner dimension from its beginning to its end. The number of rows in a tile, the tile's place, the stretch in
// which a step lies and the number of threads decide which accumulators live side by side, never what one of
// them adds, nor when.
#pragma once
#include <algorithm>

#include "simd.h"
#include "team.h"

namespace specfleet {

constexpr int kBlockVectors = 2;
constexpr int kBlockOutputs = kBlockVectors * kLanes;
// Half of the registers hold sums: those of four rows and one vector, or of two rows and both. With AVX-512 all but
// eight do, which are for weights and the input: all of a block's outputs for twelve rows.
constexpr bool kHasManyRegisters = kRegisters >= 32;
constexpr int kTileSums = kHasManyRegisters ? kRegisters - 8 : kRegisters / 2;
// Rows that share one reading of a block: eight at a time, which is quickest where there are many; but what is left goes
// together as far as registers reach, for a second reading costs more than a large tile.
constexpr int kBlockRows = 8;
constexpr int kMostBlockRows = kHasManyRegisters ? kTileSums / kBlockVectors : kBlockRows;
constexpr int kTileRows = kHasManyRegisters ? kMostBlockRows : kTileSums;
// A lone row is slow to add up where a step is two additions, one after the other: two blocks at once then.
constexpr int kLoneRowBlocks = kHasManyRegisters ? 1 : kTileSums / kBlockVectors;
// Where a block's rows need several tiles, they go through it stretch by stretch, so that all but the first find
// their weights in the nearest cache.
constexpr int kStretchBytes = 2048;
// With few rows a pass waits for memory and the processor's own prefetcher does best; from this many on it
// computes as long as it reads, and fetching this far ahead lets the two overlap. Measured on Zen 4 and on Zen 3.
constexpr int kPrefetchFromRows = kHasManyRegisters ? 6 : 3;
constexpr int kPrefetchBytes = kHasManyRegisters ? 8192 : 4096;

template <class T>
inline int64_t packed_steps(int64_t inner) {
  return (inner + Pair<T>::kWidth - 1) / Pair<T>::kWidth;
}

template <class T>
inline int64_t packed_block_size(int64_t inner) {
  return packed_steps<T>(inner) * kBlockOutputs * Pair<T>::kWidth;
}

// weight [outputs, inner] row by row -> packed; outputs and the last pair are padded with zeros.
template <class T>
void pack_weight(int threads, const T* weight, int64_t row_stride, int outputs, int inner, T* packed) {
  constexpr int kWidth = Pair<T>::kWidth;
  const int64_t blocks = (outputs + kBlockOutputs - 1) / kBlockOutputs;
  share_out(threads, blocks, static_cast<int64_t>(kBlockOutputs) * inner, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      T* out = packed + block * packed_block_size<T>(inner);
      std::memset(static_cast<void*>(out), 0, packed_block_size<T>(inner) * sizeof(T));
      for (int column = 0; column < kBlockOutputs && block * kBlockOutputs + column < outputs; ++column) {
        const T* row = weight + (block * kBlockOutputs + column) * row_stride;
        for (int k = 0; k < inner; ++k)
          out[(static_cast<int64_t>(k / kWidth) * kBlockOutputs + column) * kWidth + k % kWidth] = row[k];
      }
    }
  });
}

// Where element k of output n lies in the packed weights.
template <class T>
inline int64_t packed_index(int n, int k, int64_t inner) {
  constexpr int kWidth = Pair<T>::kWidth;
  return (n / kBlockOutputs) * packed_block_size<T>(inner) +
         (static_cast<int64_t>(k / kWidth) * kBlockOutputs + n % kBlockOutputs) * kWidth + k % kWidth;
}

// Rows x .. x + kRows - 1 over `steps` steps of one block: kVectors of its vectors, added to sums [row][output]. A lone
// row may go on with the vectors of the next block, which begins `block_size` further on.
template <class T, int kRows, int kVectors, bool kFetchesAhead>
inline void linear_tile(const typename Pair<T>::Input* x, int64_t x_stride, const T* block, int64_t block_size,
                        int64_t steps, float* sums) {
  static_assert(kRows == 1 || kVectors <= kBlockVectors);
  using Step = Pair<T>;
  constexpr int kStepElements = kBlockOutputs * Step::kWidth;
  Float16 sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) sum[r][v] = load(sums + r * kBlockOutputs + v * kLanes);
  for (int64_t k = 0; k < steps; ++k) {
    const T* w = block + k * kStepElements;
    if (kFetchesAhead)
      for (int line = 0; line < kStepElements * static_cast<int>(sizeof(T)); line += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(w) + kPrefetchBytes + line, 0, 2);
    typename Step::Weights weights[kVectors];
    for (int v = 0; v < kVectors; ++v)
      weights[v] = Step::weights(w + v / kBlockVectors * block_size + v % kBlockVectors * kLanes * Step::kWidth);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v)
        sum[r][v] = Step::dot(sum[r][v], weights[v], x + r * x_stride + k * Step::kWidth);
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) store(sums + r * kBlockOutputs + v * kLanes, sum[r][v]);
}

// kRows rows and all vectors of the block, as many vectors at once as there are registers for.
template <class T, int kRows>
inline void linear_tiles(const typename Pair<T>::Input* x, int64_t x_stride, const T* block, int64_t steps,
                         float* sums) {
  constexpr int kVectors = kRows * kBlockVectors <= kTileSums ? kBlockVectors : 1;
  linear_tile<T, kRows, kVectors, (kRows >= kPrefetchFromRows)>(x, x_stride, block, 0, steps, sums);
  for (int v = kVectors; v < kBlockVectors; v += kVectors)
    linear_tile<T, kRows, kVectors, false>(x, x_stride, block + v * kLanes * Pair<T>::kWidth, 0, steps,
                                           sums + v * kLanes);
}

template <class T>
using TilesFunction = void (*)(const typename Pair<T>::Input*, int64_t, const T*, int64_t, float*);

// At most kMostBlockRows rows of one block: sums [rows][output].
template <class T>
inline void linear_block(const typename Pair<T>::Input* x, int64_t x_stride, int rows, const T* block, int64_t steps,
                         float* sums) {
  static constexpr TilesFunction<T> kTiles[] = {nullptr,
                                                linear_tiles<T, 1>,
                                                linear_tiles<T, 2>,
                                                linear_tiles<T, 3>,
                                                linear_tiles<T, 4>,
#if defined(__AVX512F__)
                                                linear_tiles<T, 5>,
                                                linear_tiles<T, 6>,
                                                linear_tiles<T, 7>,
                                                linear_tiles<T, 8>,
                                                linear_tiles<T, 9>,
                                                linear_tiles<T, 10>,
                                                linear_tiles<T, 11>,
                                                linear_tiles<T, 12>
#endif
  };
  constexpr int64_t kStepElements = kBlockOutputs * Pair<T>::kWidth;
  const int64_t stretch = rows * kBlockVectors <= kTileSums ? steps : kStretchBytes / (kStepElements * sizeof(T));
  std::fill_n(sums, rows * kBlockOutputs, 0.0f);
  for (int64_t k = 0; k < steps; k += stretch) {
    const int64_t count = steps - k < stretch ? steps - k : stretch;
    for (int row = 0; row < rows; row += kTileRows)
      kTiles[rows - row < kTileRows ? rows - row : kTileRows](
          x + row * x_stride + k * Pair<T>::kWidth, x_stride, block + k * kStepElements, count,
          sums + row * kBlockOutputs);
  }
}

enum class Epilogue : int { kStore = 0, kAdd = 1 };

// One row's sums of a block, of which `columns` are outputs -> y.
inline void finish_row(float* sums, const float* bias, int columns, Epilogue epilogue, float* y) {
  if (bias != nullptr)
    for (int v = 0; v < kBlockOutputs; v += kLanes) store(sums + v, add(load(sums + v), load(bias + v)));
  if (epilogue == Epilogue::kAdd)
    for (int c = 0; c < columns; ++c) y[c] += sums[c];
  else
    std::memcpy(y, sums, columns * sizeof(float));
}

// x [rows, inner] (inner even for bf16), bias padded to whole blocks or null, y [rows, outputs] float.
template <class T>
void linear(int threads, const T* x, int rows, int inner, const T* packed, const float* bias, int outputs,
            Epilogue epilogue, float* y) {
  static thread_local std::vector<typename Pair<T>::Input> room;
  const auto* input = as_input(x, static_cast<int64_t>(rows) * inner, &room);
  const int64_t steps = packed_steps<T>(inner), block_size = packed_block_size<T>(inner);
  const int64_t blocks = (outputs + kBlockOutputs - 1) / kBlockOutputs;
  const auto finish = [&](float* sums, int row, int64_t block) {
    const int column = static_cast<int>(block) * kBlockOutputs;
    const int columns = outputs - column < kBlockOutputs ? outputs - column : kBlockOutputs;
    finish_row(sums, bias == nullptr ? nullptr : bias + column, columns, epilogue,
               y + static_cast<int64_t>(row) * outputs + column);
  };
  share_out(threads, blocks, static_cast<int64_t>(kBlockOutputs) * inner, [&](int64_t first, int64_t last) {
    float sums[kMostBlockRows * kBlockOutputs];
    int64_t block = first;
    if (rows == 1 && kLoneRowBlocks > 1)
      for (; block + kLoneRowBlocks <= last; block += kLoneRowBlocks) {
        std::fill_n(sums, kLoneRowBlocks * kBlockOutputs, 0.0f);
        linear_tile<T, 1, kLoneRowBlocks * kBlockVectors, false>(input, inner, packed + block * block_size, block_size,
                                                                 steps, sums);
        for (int i = 0; i < kLoneRowBlocks; ++i) finish(sums + i * kBlockOutputs, 0, block + i);
      }
    for (; block < last; ++block)
      for (int row = 0, count; row < rows; row += count) {
        count = rows - row <= kMostBlockRows ? rows - row : kBlockRows;
        linear_block(input + static_cast<int64_t>(row) * inner, inner, count, packed + block * block_size, steps, sums);
        for (int r = 0; r < count; ++r) finish(sums + r * kBlockOutputs, row + r, block);
      }
  });
}

}  // namespace specfleet
