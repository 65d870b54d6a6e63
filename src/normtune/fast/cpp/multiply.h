// Products of small matrices that stay in the processor's caches.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "lanes.h"

namespace normtune {

// How many registers of columns are worked on at once.
constexpr int kColumns = kBytes == 64 ? 4 : 2;

// A matrix whose rows are `step` numbers apart.
template <typename T>
struct Matrix {
  T* at;
  int64_t step;
};

template <typename T, std::size_t... kLane>
inline void deal(const Values<T>* from, Values<T>* to, std::index_sequence<kLane...>) {
  constexpr int kLanes = Lanes<T>::count;
  for (int i = 0; i < kLanes / 2; ++i) {
    const Values<T> a = from[i], b = from[i + kLanes / 2];
    to[2 * i] = __builtin_shufflevector(a, b, (kLane % 2 * kLanes + kLane / 2)...);
    to[2 * i + 1] = __builtin_shufflevector(a, b, (kLane % 2 * kLanes + kLane / 2 + kLanes / 2)...);
  }
}

// Rows of a square of registers become its columns: they are dealt like two halves of a pack of cards, until each lane
// has moved to where its row was.
template <typename T>
inline void turn(Values<T>* square) {
  constexpr int kLanes = Lanes<T>::count;
  Values<T> other[kLanes];
  for (int moved = 1; moved < kLanes; moved *= 2) {
    deal<T>(square, other, std::make_index_sequence<kLanes>());
    std::copy_n(other, kLanes, square);
  }
}

template <typename T, int kRows, int kWide>
inline void block(const T* a, int64_t a_row, int64_t a_inner, Matrix<const T> b, Matrix<T> c, int64_t inner, T scale) {
  Values<T> found[kRows][kWide] = {};
  for (int64_t k = 0; k < inner; ++k) {
    Values<T> own[kWide];
    for (int n = 0; n < kWide; ++n) own[n] = load(b.at + k * b.step + n * Lanes<T>::count);
    for (int r = 0; r < kRows; ++r) {
      const T factor = a[r * a_row + k * a_inner];
      for (int n = 0; n < kWide; ++n) found[r][n] += own[n] * factor;
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int n = 0; n < kWide; ++n) store(c.at + r * c.step + n * Lanes<T>::count, found[r][n] * scale);
}

// The last `rows` of them, fewer than `kRows`, at once too.
template <typename T, int kRows, int kWide>
inline void rest(const T* a, int64_t a_row, int64_t a_inner, Matrix<const T> b, Matrix<T> c, int64_t rows,
                 int64_t inner, T scale) {
  if constexpr (kRows > 1) {
    if (rows == 0) return;
    if (rows == kRows - 1) return block<T, kRows - 1, kWide>(a, a_row, a_inner, b, c, inner, scale);
    rest<T, kRows - 1, kWide>(a, a_row, a_inner, b, c, rows, inner, scale);
  }
}

template <typename T, int kWide>
void strip(const T* a, int64_t a_row, int64_t a_inner, Matrix<const T> b, Matrix<T> c, int64_t rows, int64_t inner,
           T scale) {
  constexpr int kRows = kWide == 4 ? 6 : kBytes == 64 ? 8 : 4;
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows)
    block<T, kRows, kWide>(a + row * a_row, a_row, a_inner, b, {c.at + row * c.step, c.step}, inner, scale);
  rest<T, kRows, kWide>(a + row * a_row, a_row, a_inner, b, {c.at + row * c.step, c.step}, rows - row, inner, scale);
}

// c = scale a b, of (rows, inner) and (inner, columns), which are whole registers. `a` may lie either way.
template <typename T>
void multiply(const T* a, int64_t a_row, int64_t a_inner, Matrix<const T> b, Matrix<T> c, int64_t rows, int64_t columns,
              int64_t inner, T scale = 1) {
  constexpr int kLanes = Lanes<T>::count;
  int64_t n = 0;
  for (; n + kColumns * kLanes <= columns; n += kColumns * kLanes)
    strip<T, kColumns>(a, a_row, a_inner, {b.at + n, b.step}, {c.at + n, c.step}, rows, inner, scale);
  if (kColumns > 2 && n + 2 * kLanes <= columns) {
    strip<T, 2>(a, a_row, a_inner, {b.at + n, b.step}, {c.at + n, c.step}, rows, inner, scale);
    n += 2 * kLanes;
  }
  if (n < columns) strip<T, 1>(a, a_row, a_inner, {b.at + n, b.step}, {c.at + n, c.step}, rows, inner, scale);
}

}  // namespace normtune
