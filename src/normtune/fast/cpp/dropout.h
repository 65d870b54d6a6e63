// Dropout whose masks are never written down.
#pragma once

#include <cstdint>

#include "lanes.h"

namespace normtune {

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

}  // namespace normtune
