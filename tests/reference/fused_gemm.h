#pragma once
#include <span>

#include "autotune/fused_gemm.h"
#include "autotune/fused_gemm_wna16.h"

namespace quern::test {

/// Family "fused_gemm" in loops on the CPU: sums in f64, of x normalised where there is a prologue,
/// then the epilogue's kernel as LLVM builds it for the CPU.
void reference_fused_gemm(const FusedGemmFamily& family, const Params& problem,
                          std::span<HostTensor> operands);

/// Family "fused_gemm_wna16": the sums of reference_gemm_wna16(), of x normalised where there is a
/// prologue, and that epilogue.
void reference_fused_gemm_wna16(const FusedGemmWna16Family& family, const Params& problem,
                                std::span<HostTensor> operands);

}  // namespace quern::test
