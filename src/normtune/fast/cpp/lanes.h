// Registers full of numbers: read, written, summed, and the functions of them that layers need.
#pragma once

#include <c10/util/BFloat16.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace normtune {

// The bytes of a register as GCC and Clang write it for any processor.
#if defined(__AVX512F__)
constexpr int kBytes = 64;
#else
constexpr int kBytes = 32;
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

// The first `count` of them; the others are zero.
template <typename T>
inline Values<T> load(const T* from, int64_t count) {
  if (count >= Lanes<T>::count) return load(from);
  T whole[Lanes<T>::count] = {};
  std::memcpy(whole, from, count * sizeof(T));
  return load(whole);
}

template <typename T>
inline void store(T* to, Values<T> values, int64_t count) {
  if (count >= Lanes<T>::count) return store(to, values);
  T whole[Lanes<T>::count];
  store(whole, values);
  std::memcpy(to, whole, count * sizeof(T));
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

}  // namespace normtune
