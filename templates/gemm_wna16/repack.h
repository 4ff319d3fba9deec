#pragma once
#include <memory>
#include <string>
#include <tuple>

#include "templates/family.h"
#include "templates/params.h"

namespace quern {

/// Quantised weights of a checkpoint to kernel order (gemm_wna16_args.h), once when a model is
/// loaded. gemm_wna16/repack.cuh has the sources' layouts.
struct Wna16RepackProblem {
  std::string part = "codes";  // codes, scales, zeros
  std::string source = "awq";  // awq, gptq, gptq_v2, packed, int8
  int n = 16, k = 64;
  int group_size = 64;     // as in GemmWna16Problem
  bool act_order = false;  // codes: operand `order` says which row of the checkpoint a column is
  bool interleaved = false;  // `in` is two matrices of n / 2 rows: repack.cuh says where they go

  static constexpr auto fields() {
    using P = Wna16RepackProblem;
    return std::tuple{std::pair{"part", &P::part},
                      std::pair{"source", &P::source},
                      std::pair{"n", &P::n},
                      std::pair{"k", &P::k},
                      std::pair{"group_size", &P::group_size},
                      std::pair{"act_order", &P::act_order},
                      std::pair{"interleaved", &P::interleaved}};
  }
};

/// Family "wna16_repack": operands in, order[k] (i32; only with act_order), out. Scales are moved
/// as 16-bit elements, whatever they are; here they are f16.
std::unique_ptr<Family> make_wna16_repack_family();

}  // namespace quern
