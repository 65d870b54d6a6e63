// What compiled layers do between their products (normtune/execution/compiled.py): attention, and dropout joined to a
// sum and its normalisation, each as one pass that stays in the processor's caches.
//
// A batch is packed: its texts' tokens are rows, one text after the other, without padding. No probability, mask or
// random number is kept for a backward pass. They are computed again: a mask from its seed, probabilities from the
// logarithm of each row's sum (as in FlashAttention, Dao et al. 2022, arXiv:2205.14135).

#include <torch/library.h>

#include "attention.h"
#include "gelu.h"
#include "join.h"

// Tensors have the dtype of the first, but for rows' places; in a layer whose products are in bfloat16 sums are float32.
// `Tensor(a!)` is written over.
TORCH_LIBRARY(normtune, library) {
  library.def("attend(Tensor qkv, Tensor starts, int heads, float scale, int seed, int threshold) -> (Tensor, Tensor)");
  library.def(
      "attend_back(Tensor gradient, Tensor qkv, Tensor sums, Tensor starts, int heads, float scale, int seed, "
      "int threshold) -> Tensor");
  library.def(
      "join(Tensor residual, Tensor values, Tensor(a!) joined, Tensor weight, Tensor bias, float eps, int seed, "
      "int threshold) -> (Tensor, Tensor, Tensor)");
  library.def(
      "join_back(Tensor gradient, Tensor joined, Tensor means, Tensor scales, Tensor weight, int seed, int threshold, "
      "bool needed) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def("gelu(Tensor wide) -> Tensor");
  library.def("gelu_back(Tensor(a!) gradient, Tensor wide) -> ()");
}

TORCH_LIBRARY_IMPL(normtune, CPU, library) {
  library.impl("attend", &normtune::attend);
  library.impl("attend_back", &normtune::attend_back);
  library.impl("join", &normtune::join);
  library.impl("join_back", &normtune::join_back);
  library.impl("gelu", &normtune::gelu);
  library.impl("gelu_back", &normtune::gelu_back);
}
