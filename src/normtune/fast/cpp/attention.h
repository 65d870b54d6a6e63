// Attention, text by text and head by head.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "dropout.h"
#include "lanes.h"
#include "multiply.h"

namespace normtune {

using at::Tensor;

inline int64_t filled(int64_t count, int64_t lanes) { return (count + lanes - 1) / lanes * lanes; }

// One head of one text, in memory as numbers of kind `Held`, computed in those of kind `T`.
template <typename T, typename Held>
struct Head {
  static constexpr bool kAsHeld = std::is_same_v<T, Held>;
  static constexpr int kLanes = Lanes<T>::count;
  int64_t tokens, width, wide;

  // The rows, filled up with zeros to whole registers.
  Matrix<const T> of(const Held* from, int64_t step, T* room) const {
    if constexpr (kAsHeld)
      if (width == wide) return {from, step};
    for (int64_t row = 0; row < tokens; ++row)
      for (int64_t d = 0; d < wide; d += kLanes) store(room + row * wide + d, load(from + row * step + d, width - d));
    return {room, wide};
  }

  // The rows, whatever follows a row.
  Matrix<const T> rows(const Held* from, int64_t step, T* room) const {
    if constexpr (kAsHeld) return {from, step};
    return of(from, step, room);
  }

  // Writes the product of `a` with the rows of `b` to `to`.
  void write(const T* a, int64_t a_row, int64_t a_inner, Matrix<const T> b, Matrix<Held> to, T* room) const {
    if constexpr (kAsHeld)
      if (width == wide) return multiply(a, a_row, a_inner, b, to, tokens, wide, tokens);
    multiply(a, a_row, a_inner, b, {room, wide}, tokens, wide, tokens);
    for (int64_t row = 0; row < tokens; ++row)
      for (int64_t d = 0; d < wide; d += kLanes)
        store(to.at + row * to.step + d, load(room + row * wide + d), width - d);
  }

  // (wide, places): the rows turned, filled up with zeros.
  Matrix<const T> turned(const Held* from, int64_t step, int64_t places, T* room) const {
    for (int64_t row = 0; row < places; row += kLanes)
      for (int64_t d = 0; d < wide; d += kLanes) {
        Values<T> square[kLanes];
        for (int i = 0; i < kLanes; ++i)
          square[i] = row + i < tokens ? load(from + (row + i) * step + d, width - d) : Values<T>{};
        turn<T>(square);
        for (int i = 0; i < kLanes; ++i) store(room + (d + i) * places + row, square[i]);
      }
    return {room, places};
  }
};

// Numbers of this thread alone, of which only what was written in this call means anything.
template <typename T>
T* scratch(int64_t count) {
  static thread_local std::vector<T> held;
  if (static_cast<int64_t>(held.size()) < count) held.resize(count);
  return held.data();
}

// Calls `each(text, head)` for all of them. Texts of a batch may lie by length: neighbours differ in the head, so that
// threads get like shares.
template <typename Each>
void for_heads(int64_t texts, int64_t heads, const Each& each) {
  at::parallel_for(0, texts * heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) each(unit % texts, unit / texts);
  });
}

inline void check(const Tensor& starts, const Tensor& qkv, int64_t heads) {
  TORCH_CHECK(starts.scalar_type() == at::kLong && starts.dim() == 1 && starts.is_contiguous(), "starts: int64 rows");
  TORCH_CHECK(qkv.dim() == 2 && qkv.is_contiguous() && qkv.size(1) % (3 * heads) == 0, "qkv: (rows, three widths)");
  TORCH_CHECK(starts.const_data_ptr<int64_t>()[starts.numel() - 1] == qkv.size(0), "starts end with all rows");
}

// Attention's outputs, (rows, width), and the logarithm of each row's sum of exponentials, (heads, rows). What is in
// bfloat16 is computed in float32, and so are the sums.
inline std::tuple<Tensor, Tensor> attend(const Tensor& qkv, const Tensor& starts, int64_t heads, double scale,
                                         int64_t seed, int64_t threshold) {
  check(starts, qkv, heads);
  const int64_t rows = qkv.size(0), width = qkv.size(1) / 3, step = 3 * width, own = width / heads;
  const at::ScalarType exact = qkv.scalar_type() == at::kBFloat16 ? at::kFloat : qkv.scalar_type();
  Tensor outputs = at::empty({rows, width}, qkv.options()), sums = at::empty({heads, rows}, qkv.options().dtype(exact));
  const int64_t* first = starts.const_data_ptr<int64_t>();
  const Dropout drop(seed, threshold);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, qkv.scalar_type(), "attend", [&] {
    using T = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    constexpr int64_t kLanes = Lanes<T>::count;
    const scalar_t* from = qkv.const_data_ptr<scalar_t>();
    scalar_t* to = outputs.mutable_data_ptr<scalar_t>();
    T* log_sums = sums.mutable_data_ptr<T>();
    for_heads(starts.numel() - 1, heads, [&](int64_t text, int64_t head) {
      const int64_t start = first[text], tokens = first[text + 1] - start, places = filled(tokens, kLanes);
      const Head<T, scalar_t> shape{tokens, own, filled(own, kLanes)};
      T* turned = scratch<T>(shape.wide * places + tokens * places + 2 * tokens * shape.wide);
      T *scores = turned + shape.wide * places, *room = scores + tokens * places;
      const scalar_t* query = from + start * step + head * own;
      const Matrix<const T> keys = shape.turned(query + width, step, places, turned);
      const Matrix<const T> queries = shape.rows(query, step, room);
      multiply(queries.at, queries.step, 1, keys, {scores, places}, tokens, places, own, static_cast<T>(scale));
      for (int64_t i = 0; i < tokens; ++i) {
        T* row = scores + i * places;
        constexpr T kLeast = -std::numeric_limits<T>::infinity();
        Values<T> mosts = Values<T>{} + kLeast, each{};
        for (int64_t j = 0; j < places; j += kLanes) {
          const Values<T> part = cut<T>(load(row + j), tokens - j, kLeast);
          mosts = part > mosts ? part : mosts;
        }
        const T most = largest<T>(mosts);
        for (int64_t j = 0; j < places; j += kLanes) {
          const Values<T> part = cut<T>(exponential(load(row + j) - most), tokens - j);
          each += part;
          store(row + j, part);
        }
        const T total = sum<T>(each), share = T(1) / total;
        log_sums[head * rows + start + i] = most + std::log(total);
        const uint64_t place = static_cast<uint64_t>(head * rows + start + i) * places;
        for (int64_t j = 0; j < places; j += kLanes)
          store(row + j, load(row + j) * drop.at<T>(place + j) * share);
      }
      const Matrix<const T> values = shape.of(query + 2 * width, step, room);
      shape.write(scores, places, 1, values, {to + start * width + head * own, width}, room + tokens * shape.wide);
    });
  });
  return {outputs, sums};
}

// The gradient of queries, keys and values side by side, from that of the outputs; the rest as `attend` had it.
inline Tensor attend_back(const Tensor& gradient, const Tensor& qkv, const Tensor& sums, const Tensor& starts,
                          int64_t heads, double scale, int64_t seed, int64_t threshold) {
  check(starts, qkv, heads);
  TORCH_CHECK(gradient.is_contiguous() && gradient.size(0) == qkv.size(0), "gradient: (rows, width)");
  TORCH_CHECK(gradient.scalar_type() == qkv.scalar_type(), "one dtype");
  const int64_t rows = qkv.size(0), width = qkv.size(1) / 3, step = 3 * width, own = width / heads;
  Tensor result = at::empty_like(qkv);
  const int64_t* first = starts.const_data_ptr<int64_t>();
  const Dropout drop(seed, threshold);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, qkv.scalar_type(), "attend_back", [&] {
    using T = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    constexpr int64_t kLanes = Lanes<T>::count;
    const scalar_t *from = qkv.const_data_ptr<scalar_t>(), *grads = gradient.const_data_ptr<scalar_t>();
    const T* log_sums = sums.const_data_ptr<T>();
    scalar_t* to = result.mutable_data_ptr<scalar_t>();
    for_heads(starts.numel() - 1, heads, [&](int64_t text, int64_t head) {
      const int64_t start = first[text], tokens = first[text + 1] - start, places = filled(tokens, kLanes);
      const Head<T, scalar_t> shape{tokens, own, filled(own, kLanes)};
      T* turned = scratch<T>(shape.wide * places + 2 * tokens * places + places + 2 * tokens * shape.wide);
      T *chances = turned + shape.wide * places, *to_scores = chances + tokens * places;
      T *p = to_scores + tokens * places, *room = p + places, *made = room + tokens * shape.wide;
      const scalar_t* query = from + start * step + head * own;
      const scalar_t *key = query + width, *value = key + width, *grad = grads + start * width + head * own;
      const Matrix<const T> queries = shape.rows(query, step, room);
      multiply(queries.at, queries.step, 1, shape.turned(key, step, places, turned), {chances, places}, tokens, places,
               own, static_cast<T>(scale));
      const Matrix<const T> from_outputs = shape.rows(grad, width, room);
      multiply(from_outputs.at, from_outputs.step, 1, shape.turned(value, step, places, turned), {to_scores, places},
               tokens, places, own);
      for (int64_t i = 0; i < tokens; ++i) {
        T *chance = chances + i * places, *score = to_scores + i * places;
        const T log_sum = log_sums[head * rows + start + i];
        const uint64_t place = static_cast<uint64_t>(head * rows + start + i) * places;
        Values<T> each{};
        for (int64_t j = 0; j < places; j += kLanes) {
          const Values<T> own_p = cut<T>(exponential(load(chance + j) - log_sum), tokens - j);
          const Values<T> kept = drop.at<T>(place + j), to_p = load(score + j) * kept;
          each += own_p * to_p;
          store(p + j, own_p);
          store(chance + j, own_p * kept);
          store(score + j, to_p);
        }
        const T common = sum<T>(each);
        for (int64_t j = 0; j < places; j += kLanes)
          store(score + j, load(p + j) * (load(score + j) - common) * static_cast<T>(scale));
      }
      scalar_t* into = to + start * step + head * own;
      shape.write(to_scores, places, 1, shape.of(key, step, room), {into, step}, made);
      shape.write(to_scores, 1, places, shape.of(query, step, room), {into + width, step}, made);
      shape.write(chances, 1, places, shape.of(grad, width, room), {into + 2 * width, step}, made);
    });
  });
  return result;
}

}  // namespace normtune
