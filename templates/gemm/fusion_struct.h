#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/dtype.h"

namespace quern {

/// What the sums of a product are fused with: an expression computed of them before anything is
/// stored, and RMSNorm of few rows of x before they are multiplied. The expression comes as text,
/// from whoever compiles it (autotune/fused_gemm.h); what it may expect of the kernels is in
/// gemm/fusion.cuh.
struct GemmFusion {
  /// CUDA source that declares, outside of any namespace,
  ///   struct EpilogueArgs {...};
  ///   template <int N> void epilogue(const EpilogueArgs&, long long row, long long column,
  ///                                  const float (&sum)[N * parts] [, float (&y)[N]]);
  ///   void epilogue_prefetch(const EpilogueArgs&, int column, int columns, int thread);
  /// y where `leaves_y`: the result in fp32, which the kernel rounds to its problem's out_dtype and
  /// stores at the address of y, [m, n / parts].
  std::string text;
  std::size_t args_bytes = 0;      // of EpilogueArgs, a multiple of 8
  int parts = 1;                   // 2: w holds groups of 8 rows of each part in turn
  bool leaves_y = false;           // gemm's wgmma alone
  std::optional<double> norm_eps;  // normalises x, with weights gamma, [k]
  bool f32_stream = false;         // what is normalised is f32, else of the problem's dtype
};

/// The parameter that a kernel without fusion has, a struct of namespace quern: Fusion::Args
/// derives from it.
struct ArgsStruct {
  const char* name;
  std::size_t bytes, alignment;
};

/// CUDA source of struct Fusion (gemm/fusion.cuh) for a product of `dtype`, after `fusion.text`.
std::string fusion_struct(const GemmFusion& fusion, const ArgsStruct& base, DType dtype);

/// Fusion::Args: `args` are the bytes of the base, `epilogue_args` those of EpilogueArgs, `gamma`
/// the address of what normalises x, if it is. Throws InputError for other sizes.
std::vector<std::byte> with_fusion(std::vector<std::byte> args, const GemmFusion& fusion,
                                   const ArgsStruct& base, std::uint64_t gamma,
                                   std::span<const std::byte> epilogue_args);

}  // namespace quern
