#pragma once
#include <cstddef>

namespace quern {

/// Rows of each of two matrices that follow one another where they are interleaved: what products
/// with a SwiGLU read (templates/gemm/fusion.cuh).
constexpr std::size_t kInterleavedRows = 8;

/// A run of elements of one of two dense matrices.
struct InterleavedRun {
  std::size_t matrix = 0;  // 0 or 1
  std::size_t first = 0;   // element of it
  std::size_t count = 0;
};

/// What stands from element `at` on, up to the end of its group of rows, where two matrices of
/// `cols` columns and a multiple of 8 rows each are interleaved.
constexpr InterleavedRun interleaved_run(std::size_t at, std::size_t cols) {
  const std::size_t group = kInterleavedRows * cols, turn = at / group, within = at % group;
  return {turn % 2, turn / 2 * group + within, group - within};
}

}  // namespace quern
