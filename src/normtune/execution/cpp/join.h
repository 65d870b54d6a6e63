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

#include "dropout.h"
#include "lanes.h"

namespace normtune {

using at::Tensor;

// `values` become `residual` plus what dropout leaves of them; beside it that normalised, each row's mean, and its
// reciprocal deviation.
inline std::tuple<Tensor, Tensor, Tensor> join(const Tensor& residual, Tensor values, const Tensor& weight,
                                               const Tensor& bias, double eps, int64_t seed, int64_t threshold) {
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
