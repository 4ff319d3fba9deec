#pragma once
#include <memory>

#include "templates/family.h"

namespace quern {

/// "library_product": a product of 8 bits as cuBLASLt makes it when it is asked for less than
/// gemm_w8a8 is. A rival to be timed, not a kernel that anything runs on:
///
/// i8: y[m, n] is i32, the sums without scales. e4m3: y is the sum times a scale of x and one of w,
/// the tensor cores adding up all of k by themselves (CUBLASLT_MATMUL_DESC_FAST_ACCUM), where
/// gemm_w8a8's cublaslt promotes sums to fp32 on the way.
struct LibraryProductProblem {
  int m = 1, n = 1, k = 1;
  DType dtype = DType::i8;       // of x and w: i8 or e4m3
  DType out_dtype = DType::i32;  // of y: i32; bf16, f16 or f32
  static constexpr auto fields() {
    using P = LibraryProductProblem;
    return std::tuple{std::pair{"m", &P::m}, std::pair{"n", &P::n}, std::pair{"k", &P::k},
                      std::pair{"dtype", &P::dtype}, std::pair{"out_dtype", &P::out_dtype}};
  }
};

std::unique_ptr<Family> make_library_product_family();

}  // namespace quern
