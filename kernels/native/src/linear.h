// y = x W^T (+ bias), for any number of rows, with the weights laid out for streaming.
//
// Packed layout: the outputs in blocks of 32; in a block, for each step of the inner dimension (one
// element of float, two of bf16), two vectors of sixteen outputs. One block is one forward stream
// through memory, read once for up to eight rows.
//
// Why a row's result does not depend on its neighbours: every output is one accumulator that walks the
// inner dimension from its beginning to its end. The number of rows in a tile, the tile's place and the
// number of threads decide which accumulators live side by side, never what one of them adds, nor when.
#pragma once
#include "simd.h"
#include "team.h"

namespace specfleet {

constexpr int kBlockVectors = 2;
constexpr int kBlockOutputs = kBlockVectors * kLanes;
constexpr int kTileRows = 8;
// With few rows a pass waits for memory and the processor's own prefetcher does best; from this many on it
// computes as long as it reads, and fetching this far ahead lets the two overlap.
constexpr int kPrefetchFromRows = 6;
constexpr int kPrefetchBytes = 8192;

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

enum class Epilogue : int { kStore = 0, kAdd = 1 };

template <class T, int kRows>
inline void linear_tile(const T* x, int64_t x_stride, const T* block, int64_t steps, const float* bias, int columns,
                        Epilogue epilogue, float* y, int64_t y_stride) {
  using Step = Pair<T>;
  Float16 sum[kRows][kBlockVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kBlockVectors; ++v) sum[r][v] = zeros();
  for (int64_t k = 0; k < steps; ++k) {
    const T* w = block + k * kBlockOutputs * Step::kWidth;
    if (kRows >= kPrefetchFromRows)
      for (int line = 0; line < kBlockOutputs * static_cast<int>(Step::kWidth * sizeof(T)); line += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(w) + kPrefetchBytes + line, 0, 2);
    const typename Step::Operand w0 = Step::weights(w);
    const typename Step::Operand w1 = Step::weights(w + kLanes * Step::kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const typename Step::Operand a = Step::broadcast(x + r * x_stride + k * Step::kWidth);
      sum[r][0] = Step::dot(sum[r][0], w0, a);
      sum[r][1] = Step::dot(sum[r][1], w1, a);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float out[kBlockOutputs];
    for (int v = 0; v < kBlockVectors; ++v) {
      if (bias != nullptr) sum[r][v] = add(sum[r][v], load(bias + v * kLanes));
      store(out + v * kLanes, sum[r][v]);
    }
    float* row = y + r * y_stride;
    if (epilogue == Epilogue::kAdd)
      for (int c = 0; c < columns; ++c) row[c] += out[c];
    else
      std::memcpy(row, out, columns * sizeof(float));
  }
}

template <class T>
using TileFunction = void (*)(const T*, int64_t, const T*, int64_t, const float*, int, Epilogue, float*, int64_t);

// x [rows, inner] (inner even for bf16), bias padded to whole blocks or null, y [rows, outputs] float.
template <class T>
void linear(int threads, const T* x, int rows, int inner, const T* packed, const float* bias, int outputs,
            Epilogue epilogue, float* y) {
  static constexpr TileFunction<T> kTiles[kTileRows + 1] = {
      nullptr,           linear_tile<T, 1>, linear_tile<T, 2>, linear_tile<T, 3>, linear_tile<T, 4>,
      linear_tile<T, 5>, linear_tile<T, 6>, linear_tile<T, 7>, linear_tile<T, 8>};
  const int64_t steps = packed_steps<T>(inner);
  const int64_t blocks = (outputs + kBlockOutputs - 1) / kBlockOutputs;
  share_out(threads, blocks, static_cast<int64_t>(kBlockOutputs) * inner, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int column = static_cast<int>(block) * kBlockOutputs;
      const int columns = outputs - column < kBlockOutputs ? outputs - column : kBlockOutputs;
      const T* weights = packed + block * packed_block_size<T>(inner);
      for (int row = 0; row < rows; row += kTileRows) {
        const int count = rows - row < kTileRows ? rows - row : kTileRows;
        kTiles[count](x + static_cast<int64_t>(row) * inner, inner, weights, steps,
                      bias == nullptr ? nullptr : bias + column, columns, epilogue,
                      y + static_cast<int64_t>(row) * outputs + column, outputs);
      }
    }
  });
}

}  // namespace specfleet
