#pragma once
#include <vector>

#include "templates/gemm_wna16/gemm_wna16.h"

namespace quern::test {

/// Kernel `slices` with `spans` of 128 columns of a warp in a stage.
GemmWna16Config wna16_slices(const GemmWna16Problem& problem, int tile_m, int warps_k, int spans,
                             int stages, int cluster, int blocks_per_sm = 1, int warps_n = 1);

/// One config of each kind that may run `problem`, so that each kernel of gemm_wna16 meets every
/// tail: of rows, chunks, groups and splits.
std::vector<Params> wna16_kinds(const GemmWna16Problem& problem, const Arch& arch);

}  // namespace quern::test
