// The parameter of the repacking kernels, shared by host and device.
#pragma once

namespace quern {

struct RepackArgs {
  const void* in;  // codes, scales or zero points as the checkpoint has them: of one matrix, or of
                   // two that are to be interleaved, one after another
  const int*
      order;  // [k]; column c of the result is row order[c] of the checkpoint; null: as it is
  void* out;  // kernel order (gemm_wna16_args.h)
};

/// codes: columns and rows of w that a block turns, and its threads.
constexpr int kRepackColumns = 64, kRepackRows = 256, kRepackThreads = 256;

}  // namespace quern
