// Dropout, the sum that follows it and its normalisation, as one pass.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "dropout.h"
#include "lanes.h"

namespace normtune {

using at::Tensor;

// `joined` becomes `residual` plus what dropout leaves of `values`, which are as exact or in bfloat16; it may be the
// values themselves. Beside it that normalised, each row's mean, and its reciprocal deviation.
inline std::tuple<Tensor, Tensor, Tensor> join(const Tensor& residual, const Tensor& values, Tensor joined,
                                               const Tensor& weight, const Tensor& bias, double eps, int64_t seed,
                                               int64_t threshold) {
  TORCH_CHECK(residual.is_contiguous() && values.is_contiguous() && residual.sizes() == values.sizes(), "alike rows");
  TORCH_CHECK(joined.is_contiguous() && joined.sizes() == values.sizes(), "alike rows");
  TORCH_CHECK(joined.scalar_type() == residual.scalar_type(), "one dtype");
  TORCH_CHECK(weight.is_contiguous() && bias.is_contiguous() && weight.numel() == values.size(1), "a weight a column");
  const int64_t rows = values.size(0), width = values.size(1);
  Tensor outputs = at::empty_like(joined), means = at::empty({rows, 1}, joined.options());
  Tensor scales = at::empty_like(means);
  const Dropout drop(seed, threshold);
  const auto pass = [&]<typename T, typename Held>(const Held* held) {
    constexpr int64_t kLanes = Lanes<T>::count;
    const T *base = residual.const_data_ptr<T>(), *w = weight.const_data_ptr<T>(), *b = bias.const_data_ptr<T>();
    T *sums = joined.mutable_data_ptr<T>(), *to = outputs.mutable_data_ptr<T>();
    T *mean = means.mutable_data_ptr<T>(), *scale = scales.mutable_data_ptr<T>();
    at::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* row = sums + i * width;
        Values<T> total{}, squares{};
        for (int64_t j = 0; j < width; j += kLanes) {
          const uint64_t place = static_cast<uint64_t>(i) * width + j;
          const Values<T> part = load(held + place, width - j) * drop.at<T>(place);
          const Values<T> both = load(base + place, width - j) + part;
          total += both;
          store(row + j, both, width - j);
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
  };
  AT_DISPATCH_FLOATING_TYPES(joined.scalar_type(), "join", [&] {
    if (values.scalar_type() == joined.scalar_type())
      return pass.template operator()<scalar_t>(values.const_data_ptr<scalar_t>());
    if constexpr (std::is_same_v<scalar_t, float>)
      return pass.template operator()<float>(values.const_data_ptr<at::BFloat16>());
    TORCH_CHECK(false, "values in bfloat16 are joined to float32");
  });
  return {outputs, means, scales};
}

// From the gradient of `join`'s outputs those of `residual`, of `values` before dropout (empty without dropout, where
// it is the same), and, if they are needed, of weight and bias.
inline std::tuple<Tensor, Tensor, Tensor, Tensor> join_back(const Tensor& gradient, const Tensor& joined,
                                                            const Tensor& means, const Tensor& scales,
                                                            const Tensor& weight, int64_t seed, int64_t threshold,
                                                            bool needed) {
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

}  // namespace normtune
