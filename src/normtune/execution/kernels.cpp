// What compiled layers do between their products (normtune/execution/compiled.py): attention, and dropout joined to a
// sum and its normalisation, each as one pass that stays in the processor's caches.
//
// A batch is packed: its texts' tokens are rows, one text after the other, without padding. No probability, mask or
// random number is kept for a backward pass. They are computed again: a mask from its seed, probabilities from the
// logarithm of each row's sum (as in FlashAttention, Dao et al. 2022, arXiv:2205.14135).

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using at::Tensor;

// A register as GCC and Clang write it for any processor, and how many columns of a product are in registers at once.
#if defined(__AVX512F__)
constexpr int kBytes = 64, kColumns = 4;
#else
constexpr int kBytes = 32, kColumns = 2;
#endif

template <typename T>
struct Lanes {
  static constexpr int count = kBytes / sizeof(T);
  using Whole = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T Values __attribute__((vector_size(kBytes), aligned(sizeof(T)), may_alias));
  typedef Whole Mask __attribute__((vector_size(kBytes)));
  typedef uint32_t Bits __attribute__((vector_size(4 * count)));
};

// What lies in memory as bfloat16 is computed in float32.
template <>
struct Lanes<at::BFloat16> : Lanes<float> {};

template <typename T>
using Values = typename Lanes<T>::Values;

template <typename T>
inline Values<T> load(const T* from) {
  return *reinterpret_cast<const Values<T>*>(from);
}

template <typename T>
inline void store(T* to, Values<T> values) {
  *reinterpret_cast<Values<T>*>(to) = values;
}

// The first `count` of them; the others are zero.
template <typename T>
inline Values<T> load(const T* from, int64_t count) {
  if (count >= Lanes<T>::count) return load(from);
  Values<T> values{};
  std::memcpy(&values, from, count * sizeof(T));
  return values;
}

template <typename T>
inline void store(T* to, Values<T> values, int64_t count) {
  if (count >= Lanes<T>::count) return store(to, values);
  std::memcpy(to, &values, count * sizeof(T));
}

template <typename T>
inline typename Lanes<T>::Mask numbers() {
  typename Lanes<T>::Mask found;
  for (int lane = 0; lane < Lanes<T>::count; ++lane) found[lane] = lane;
  return found;
}

// `values` with `rest` from `count` on.
template <typename T>
inline Values<T> cut(Values<T> values, int64_t count, T rest = 0) {
  if (count >= Lanes<T>::count) return values;
  return numbers<T>() < static_cast<typename Lanes<T>::Whole>(count) ? values : Values<T>{} + rest;
}

template <typename T>
inline T sum(Values<T> values) {
  T total = 0;
  for (int lane = 0; lane < Lanes<T>::count; ++lane) total += values[lane];
  return total;
}

template <typename T>
inline T largest(Values<T> values) {
  T found = values[0];
  for (int lane = 1; lane < Lanes<T>::count; ++lane) found = values[lane] > found ? values[lane] : found;
  return found;
}

inline Values<double> exponential(Values<double> x) {
  for (int lane = 0; lane < Lanes<double>::count; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}

// exp(x) for x up to 88: 2^n times a polynomial (Moshier's Cephes, expf).
inline Values<float> exponential(Values<float> x) {
  x = x < -87.0f ? Values<float>{} - 87.0f : x;
  const Values<float> shift = Values<float>{} + 12582912.0f;  // adding it rounds to a whole number
  const Values<float> n = (x * 1.44269504088896341f + shift) - shift;
  const Values<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Values<float> p = Values<float>{} + 1.9875691500e-4f;
  for (float next : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = p * r + next;
  const auto exponent = (__builtin_convertvector(n, Lanes<float>::Mask) + 127) << 23;
  return (p * r * r + r + 1.0f) * reinterpret_cast<const Values<float>&>(exponent);
}

// The standard normal distribution: how much of it is below x, and its density there.
template <typename T>
struct Normal {
  Values<T> below, density;
};

inline Normal<double> normal(Values<double> x) {
  Normal<double> found;
  for (int lane = 0; lane < Lanes<double>::count; ++lane) {
    found.below[lane] = 0.5 * std::erfc(-x[lane] * 0.70710678118654752);
    found.density[lane] = 0.39894228040143268 * std::exp(-0.5 * x[lane] * x[lane]);
  }
  return found;
}

// erfc(z) = exp(-z^2) t p(t) with t = 1 / (1 + 0.36 z), z >= 0: a polynomial fitted to scipy's erfcx, to 4e-8 of it.
inline Normal<float> normal(Values<float> x) {
  const Values<float> size = x < 0.0f ? -x : x;
  const Values<float> power = exponential(-0.5f * x * x), t = 1.0f / (1.0f + 0.25455844122715710f * size);
  Values<float> p = Values<float>{} + 0.03830033113f;
  for (float next : {-0.14484070672f, 0.14882304868f, -0.034127995316f, 0.10979084481f, 0.12176785937f, 0.16414981022f,
                     0.18991985649f, 0.2031087439f, 0.2031082488f})
    p = p * t + next;
  const Values<float> tail = 0.5f * power * t * p;
  return {x < 0.0f ? tail : 1.0f - tail, 0.39894228040143268f * power};
}

// A register of float32 numbers that lie in memory as bfloat16.
inline Values<float> load(const at::BFloat16* from) {
  using Own = Lanes<float>;
  typedef uint16_t Halves __attribute__((vector_size(2 * Own::count), aligned(2), may_alias));
  const Own::Bits bits = __builtin_convertvector(*reinterpret_cast<const Halves*>(from), Own::Bits) << 16;
  return reinterpret_cast<const Values<float>&>(bits);
}

// Rounded to the nearest, to an even one between two.
inline void store(at::BFloat16* to, Values<float> values) {
  using Own = Lanes<float>;
  typedef uint16_t Halves __attribute__((vector_size(2 * Own::count), aligned(2), may_alias));
  Own::Bits bits = reinterpret_cast<const Own::Bits&>(values);
  bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  *reinterpret_cast<Halves*>(to) = __builtin_convertvector(bits, Halves);
}

// One mask of dropout. A number's place is hashed with the mask's seed: rounds of shifting and multiplying, half of the
// seed before the first and half in the middle, so that masks are not shifts of one another.
struct Dropout {
  uint32_t low, high, threshold;
  double scale;

  Dropout(int64_t seed, int64_t threshold)
      : low(static_cast<uint32_t>(spread(seed))),
        high(static_cast<uint32_t>(spread(seed) >> 32)),
        threshold(static_cast<uint32_t>(threshold)),
        scale(4294967296.0 / (4294967296.0 - static_cast<double>(threshold))) {}

  // SplitMix64 (Steele et al. 2014): like seeds have unlike halves.
  static uint64_t spread(uint64_t seed) {
    seed += 0x9e3779b97f4a7c15u;
    seed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9u;
    seed = (seed ^ (seed >> 27)) * 0x94d049bb133111ebu;
    return seed ^ (seed >> 31);
  }

  // What numbers from `place` on are multiplied by: zero, or the scale that leaves the expectation as it was.
  template <typename T>
  inline Values<T> at(uint64_t place) const {
    using Own = Lanes<T>;
    if (threshold == 0) return Values<T>{} + T(1);
    typename Own::Bits x;
    for (int lane = 0; lane < Own::count; ++lane) x[lane] = lane;
    x += static_cast<uint32_t>(place) + low;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x += high ^ static_cast<uint32_t>(place >> 32);
    x ^= x >> 16;
    x *= 0x846ca68bu;
    x ^= x >> 15;
    x *= 0x9e3779b1u;
    const auto kept = __builtin_convertvector(x >= threshold, typename Own::Mask);
    return kept ? Values<T>{} + static_cast<T>(scale) : Values<T>{};
  }
};

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

inline int64_t filled(int64_t count, int64_t lanes) { return (count + lanes - 1) / lanes * lanes; }

// One head of one text, filled up with zeros to whole registers where a head is none.
template <typename T>
struct Head {
  int64_t tokens, width, wide;

  Matrix<const T> of(const T* from, int64_t step, T* room) const {
    if (width == wide) return {from, step};
    for (int64_t row = 0; row < tokens; ++row) {
      std::memcpy(room + row * wide, from + row * step, width * sizeof(T));
      std::memset(room + row * wide + width, 0, (wide - width) * sizeof(T));
    }
    return {room, wide};
  }

  // Writes the product of `a` with the rows of `b` to `to`.
  void write(const T* a, int64_t a_row, int64_t a_inner, Matrix<const T> b, Matrix<T> to, T* room) const {
    if (width == wide) return multiply(a, a_row, a_inner, b, to, tokens, wide, tokens);
    multiply(a, a_row, a_inner, b, {room, wide}, tokens, wide, tokens);
    for (int64_t row = 0; row < tokens; ++row)
      std::memcpy(to.at + row * to.step, room + row * wide, width * sizeof(T));
  }

  // (wide, places): the rows turned, filled up with zeros.
  Matrix<const T> turned(const T* from, int64_t step, int64_t places, T* room) const {
    constexpr int kLanes = Lanes<T>::count;
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

void check(const Tensor& starts, const Tensor& qkv, int64_t heads) {
  TORCH_CHECK(starts.scalar_type() == at::kLong && starts.dim() == 1 && starts.is_contiguous(), "starts: int64 rows");
  TORCH_CHECK(qkv.dim() == 2 && qkv.is_contiguous() && qkv.size(1) % (3 * heads) == 0, "qkv: (rows, three widths)");
  TORCH_CHECK(starts.const_data_ptr<int64_t>()[starts.numel() - 1] == qkv.size(0), "starts end with all rows");
}

// Attention's outputs, (rows, width), and the logarithm of each row's sum of exponentials, (heads, rows).
std::tuple<Tensor, Tensor> attend(const Tensor& qkv, const Tensor& starts, int64_t heads, double scale, int64_t seed,
                                  int64_t threshold) {
  check(starts, qkv, heads);
  const int64_t rows = qkv.size(0), width = qkv.size(1) / 3, step = 3 * width, own = width / heads;
  Tensor outputs = at::empty({rows, width}, qkv.options()), sums = at::empty({heads, rows}, qkv.options());
  const int64_t* first = starts.const_data_ptr<int64_t>();
  const Dropout drop(seed, threshold);
  AT_DISPATCH_FLOATING_TYPES(qkv.scalar_type(), "attend", [&] {
    using T = scalar_t;
    constexpr int64_t kLanes = Lanes<T>::count;
    const T* from = qkv.const_data_ptr<T>();
    T *to = outputs.mutable_data_ptr<T>(), *log_sums = sums.mutable_data_ptr<T>();
    for_heads(starts.numel() - 1, heads, [&](int64_t text, int64_t head) {
      const int64_t start = first[text], tokens = first[text + 1] - start, places = filled(tokens, kLanes);
      const Head<T> shape{tokens, own, filled(own, kLanes)};
      T* turned = scratch<T>(shape.wide * places + tokens * places + 2 * tokens * shape.wide);
      T *scores = turned + shape.wide * places, *room = scores + tokens * places;
      const T* query = from + start * step + head * own;
      const Matrix<const T> keys = shape.turned(query + width, step, places, turned);
      multiply(query, step, int64_t(1), keys, {scores, places}, tokens, places, own, static_cast<T>(scale));
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
Tensor attend_back(const Tensor& gradient, const Tensor& qkv, const Tensor& sums, const Tensor& starts, int64_t heads,
                   double scale, int64_t seed, int64_t threshold) {
  check(starts, qkv, heads);
  TORCH_CHECK(gradient.is_contiguous() && gradient.size(0) == qkv.size(0), "gradient: (rows, width)");
  const int64_t rows = qkv.size(0), width = qkv.size(1) / 3, step = 3 * width, own = width / heads;
  Tensor result = at::empty_like(qkv);
  const int64_t* first = starts.const_data_ptr<int64_t>();
  const Dropout drop(seed, threshold);
  AT_DISPATCH_FLOATING_TYPES(qkv.scalar_type(), "attend_back", [&] {
    using T = scalar_t;
    constexpr int64_t kLanes = Lanes<T>::count;
    const T *from = qkv.const_data_ptr<T>(), *grads = gradient.const_data_ptr<T>();
    const T* log_sums = sums.const_data_ptr<T>();
    T* to = result.mutable_data_ptr<T>();
    for_heads(starts.numel() - 1, heads, [&](int64_t text, int64_t head) {
      const int64_t start = first[text], tokens = first[text + 1] - start, places = filled(tokens, kLanes);
      const Head<T> shape{tokens, own, filled(own, kLanes)};
      T* turned = scratch<T>(shape.wide * places + 2 * tokens * places + places + 2 * tokens * shape.wide);
      T *chances = turned + shape.wide * places, *to_scores = chances + tokens * places, *p = to_scores + tokens * places;
      T *room = p + places, *made = room + tokens * shape.wide;
      const T* query = from + start * step + head * own;
      const T *key = query + width, *value = key + width, *grad = grads + start * width + head * own;
      multiply(query, step, int64_t(1), shape.turned(key, step, places, turned), {chances, places}, tokens, places, own,
               static_cast<T>(scale));
      multiply(grad, width, int64_t(1), shape.turned(value, step, places, turned), {to_scores, places}, tokens, places,
               own);
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
      T* into = to + start * step + head * own;
      shape.write(to_scores, places, 1, shape.of(key, step, room), {into, step}, made);
      shape.write(to_scores, 1, places, shape.of(query, step, room), {into + width, step}, made);
      shape.write(chances, 1, places, shape.of(grad, width, room), {into + 2 * width, step}, made);
    });
  });
  return result;
}

// `values` become `residual` plus what dropout leaves of them; beside it that normalised, each row's mean, and its
// reciprocal deviation.
std::tuple<Tensor, Tensor, Tensor> join(const Tensor& residual, Tensor values, const Tensor& weight, const Tensor& bias,
                                        double eps, int64_t seed, int64_t threshold) {
  TORCH_CHECK(residual.is_contiguous() && values.is_contiguous() && residual.sizes() == values.sizes(), "alike rows");
  TORCH_CHECK(weight.is_contiguous() && bias.is_contiguous() && weight.numel() == values.size(1), "a weight a column");
  const int64_t rows = values.size(0), width = values.size(1);
  Tensor outputs = at::empty_like(values), means = at::empty({rows, 1}, values.options());
  Tensor scales = at::empty_like(means);
  const Dropout drop(seed, threshold);
  AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "join", [&] {
    using T = scalar_t;
    constexpr int64_t kLanes = Lanes<T>::count;
    const T *base = residual.const_data_ptr<T>(), *w = weight.const_data_ptr<T>(), *b = bias.const_data_ptr<T>();
    T *sums = values.mutable_data_ptr<T>(), *to = outputs.mutable_data_ptr<T>();
    T *mean = means.mutable_data_ptr<T>(), *scale = scales.mutable_data_ptr<T>();
    at::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* row = sums + i * width;
        Values<T> total{}, squares{};
        for (int64_t j = 0; j < width; j += kLanes) {
          const Values<T> part = load(row + j, width - j) * drop.at<T>(static_cast<uint64_t>(i) * width + j);
          const Values<T> joined = load(base + i * width + j, width - j) + part;
          total += joined;
          store(row + j, joined, width - j);
        }
        const T middle = sum<T>(total) / width;
        for (int64_t j = 0; j < width; j += kLanes) {
          const Values<T> off = cut<T>(load(row + j, width - j) - middle, width - j);
          squares += off * off;
        }
        const T factor = T(1) / std::sqrt(sum<T>(squares) / width + static_cast<T>(eps));
        mean[i] = middle, scale[i] = factor;
        for (int64_t j = 0; j < width; j += kLanes) {
          const Values<T> even = (load(row + j, width - j) - middle) * factor;
          store(to + i * width + j, even * load(w + j, width - j) + load(b + j, width - j), width - j);
        }
      }
    });
  });
  return {outputs, means, scales};
}

// From the gradient of `join`'s outputs those of `residual`, of `values` before dropout (empty without dropout, where
// it is the same), and, if they are needed, of weight and bias.
std::tuple<Tensor, Tensor, Tensor, Tensor> join_back(const Tensor& gradient, const Tensor& joined, const Tensor& means,
                                                     const Tensor& scales, const Tensor& weight, int64_t seed,
                                                     int64_t threshold, bool needed) {
  TORCH_CHECK(gradient.is_contiguous() && joined.is_contiguous() && gradient.sizes() == joined.sizes(), "alike rows");
  TORCH_CHECK(weight.is_contiguous() && weight.numel() == joined.size(1), "a weight a column");
  const int64_t rows = joined.size(0), width = joined.size(1), threads = at::get_num_threads();
  Tensor to_joined = at::empty_like(joined);
  Tensor to_values = at::empty({threshold ? rows : 0, width}, joined.options());
  Tensor parts = at::zeros({needed ? threads : 0, 2, width}, joined.options());
  const Dropout drop(seed, threshold);
  AT_DISPATCH_FLOATING_TYPES(joined.scalar_type(), "join_back", [&] {
    using T = scalar_t;
    constexpr int64_t kLanes = Lanes<T>::count;
    const T *grads = gradient.const_data_ptr<T>(), *sums = joined.const_data_ptr<T>(), *w = weight.const_data_ptr<T>();
    const T *mean = means.const_data_ptr<T>(), *scale = scales.const_data_ptr<T>();
    T *to = to_joined.mutable_data_ptr<T>(), *to_dropped = to_values.mutable_data_ptr<T>();
    T* part = parts.mutable_data_ptr<T>();
    const int64_t share = std::max<int64_t>(1, (rows + threads - 1) / threads);
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * share; i < std::min(rows, end * share); ++i) {
        T* own = part + (needed ? i / share : 0) * 2 * width;
        const T *grad = grads + i * width, *row = sums + i * width;
        const T middle = mean[i], factor = scale[i];
        Values<T> first{}, second{};
        for (int64_t j = 0; j < width; j += kLanes) {
          const int64_t left = width - j;
          const Values<T> g = load(grad + j, left), even = cut<T>((load(row + j, left) - middle) * factor, left);
          const Values<T> weighted = g * load(w + j, left);
          first += weighted, second += weighted * even;
          if (!needed) continue;
          store(own + j, load(own + j, left) + g * even, left);
          store(own + width + j, load(own + width + j, left) + g, left);
        }
        const T shift = sum<T>(first) / width, tilt = sum<T>(second) / width;
        for (int64_t j = 0; j < width; j += kLanes) {
          const int64_t left = width - j;
          const Values<T> even = (load(row + j, left) - middle) * factor;
          const Values<T> found = (load(grad + j, left) * load(w + j, left) - shift - even * tilt) * factor;
          store(to + i * width + j, found, left);
          if (threshold)
            store(to_dropped + i * width + j, found * drop.at<T>(static_cast<uint64_t>(i) * width + j), left);
        }
      }
    });
  });
  if (!needed) return {to_joined, to_values, parts, parts};
  const Tensor total = parts.sum(0);
  return {to_joined, to_values, total[0], total[1]};
}

// Calls `each(from, to)` with neighbours of `lanes` numbers, the last ones in a copy.
template <typename T, typename Each>
void for_registers(const T* from, T* to, int64_t count, int64_t lanes, const Each& each) {
  const int64_t whole = count / lanes, left = count % lanes;
  at::parallel_for(0, whole, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) each(from + i * lanes, to + i * lanes);
  });
  if (left == 0) return;
  T own[kBytes] = {}, made[kBytes] = {};
  std::copy_n(from + whole * lanes, left, own);
  std::copy_n(to + whole * lanes, left, made);
  each(own, made);
  std::copy_n(made, left, to + whole * lanes);
}

// GELU by the error function. What is in bfloat16 is computed in float32.
Tensor gelu(const Tensor& wide) {
  TORCH_CHECK(wide.is_contiguous(), "wide: contiguous");
  Tensor outputs = at::empty_like(wide);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, wide.scalar_type(), "gelu", [&] {
    using T = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    const auto each = [](const scalar_t* from, scalar_t* to) {
      const Values<T> x = load(from);
      store(to, x * normal(x).below);
    };
    for_registers(wide.const_data_ptr<scalar_t>(), outputs.mutable_data_ptr<scalar_t>(), wide.numel(),
                  Lanes<T>::count, each);
  });
  return outputs;
}

// `gradient`, that of the outputs, becomes that of `wide`.
void gelu_back(Tensor gradient, const Tensor& wide) {
  TORCH_CHECK(gradient.is_contiguous() && wide.is_contiguous() && gradient.sizes() == wide.sizes(), "alike rows");
  TORCH_CHECK(gradient.scalar_type() == wide.scalar_type(), "one dtype");
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, wide.scalar_type(), "gelu_back", [&] {
    using T = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    const auto each = [](const scalar_t* from, scalar_t* to) {
      const Values<T> x = load(from);
      const Normal<T> at = normal(x);
      store(to, load(to) * (at.below + x * at.density));
    };
    for_registers(wide.const_data_ptr<scalar_t>(), gradient.mutable_data_ptr<scalar_t>(), wide.numel(),
                  Lanes<T>::count, each);
  });
}

}  // namespace

// Tensors have the dtype of the first, but for rows' places; `Tensor(a!)` is written over.
TORCH_LIBRARY(normtune, library) {
  library.def("attend(Tensor qkv, Tensor starts, int heads, float scale, int seed, int threshold) -> (Tensor, Tensor)");
  library.def(
      "attend_back(Tensor gradient, Tensor qkv, Tensor sums, Tensor starts, int heads, float scale, int seed, "
      "int threshold) -> Tensor");
  library.def(
      "join(Tensor residual, Tensor(a!) values, Tensor weight, Tensor bias, float eps, int seed, int threshold) -> "
      "(Tensor, Tensor, Tensor)");
  library.def(
      "join_back(Tensor gradient, Tensor joined, Tensor means, Tensor scales, Tensor weight, int seed, int threshold, "
      "bool needed) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def("gelu(Tensor wide) -> Tensor");
  library.def("gelu_back(Tensor(a!) gradient, Tensor wide) -> ()");
}

TORCH_LIBRARY_IMPL(normtune, CPU, library) {
  library.impl("attend", &attend);
  library.impl("attend_back", &attend_back);
  library.impl("join", &join);
  library.impl("join_back", &join_back);
  library.impl("gelu", &gelu);
  library.impl("gelu_back", &gelu_back);
}
