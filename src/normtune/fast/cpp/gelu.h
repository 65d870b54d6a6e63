// GELU and its gradient.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "lanes.h"

namespace normtune {

using at::Tensor;

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
inline Tensor gelu(const Tensor& wide) {
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
inline void gelu_back(Tensor gradient, const Tensor& wide) {
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

}  // namespace normtune
