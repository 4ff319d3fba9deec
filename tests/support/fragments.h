#pragma once
#include <fmt/format.h>

#include <cstdint>
#include <string>

#include "compiler/dsl_fragment.h"

namespace quern::test {

/// Kernels that the tests of fragments share.
inline constexpr const char* kBiasGelu = R"(
  kernel bias_gelu(acc: f32[rows, cols], bias: T[cols]) -> (y: T[rows, cols]) {
    h = acc + f32(bias)
    y = T(0.5 * h * (1 + erf(h * 0.70710678118654752)))
  })";

/// Gate and up side by side.
inline constexpr const char* kSwiglu = R"(
  kernel swiglu(acc: f32[rows, cols, 2]) -> (y: T[rows, cols]) {
    y = T(acc[0] * sigmoid(acc[0]) * acc[1])
  })";

/// Soft cap, ALiBi and causal mask.
inline constexpr const char* kScores = R"(
  kernel scores(s: f32[heads, queries, keys], slope: f32[heads]; cap: f32, past: i32)
      -> (t: f32[heads, queries, keys]) {
    distance = index(queries) + past - index(keys)
    t        = select(distance >= 0, cap * tanh(s / cap) - slope * f32(distance), -inf)
  })";

inline constexpr int kFragmentVector = 8;  // positions that a thread of the tests has in registers

/// A kernel that reads `parts` values for each position of [rows, cols] from memory, calls the
/// fragment on them and, if it leaves values in registers, writes those back. One thread takes 8
/// positions. Its one argument is the fragment's arguments, then TileArgs.
struct TileArgs {
  std::uint64_t values;
  std::int64_t rows, cols;
};

inline std::string fragment_kernel(const dsl::Fragment& fragment, const std::string& function,
                                   int parts) {
  const std::string call = function + "<n>(args.fragment, row, col, given";
  return fmt::format(R"(
struct Args {{
  {}Args fragment;
  float* values;
  long long rows, cols;
}};

extern "C" __global__ void tiles(const __grid_constant__ Args args) {{
  constexpr int n = {}, parts = {};
  const long long tiles = (args.cols + n - 1) / n, tile = blockIdx.x * 128ll + threadIdx.x;
  if (tile >= args.rows * tiles) return;
  const long long row = tile / tiles, col = tile % tiles * n;
  float* values = args.values + (row * args.cols + col) * parts;
  const long long count = (args.cols - col) * parts;
  float given[n * parts];
#pragma unroll
  for (int i = 0; i < n * parts; ++i) given[i] = i < count ? values[i] : 0.0f;
{}
}}
)",
                     fragment.name, kFragmentVector, parts,
                     fragment.output.empty()
                         ? "  " + call + ");"
                         : "  float out[n];\n  " + call +
                               ", out);\n#pragma unroll\n  for (int i = 0; i < n; ++i)\n"
                               "    if (i < count) values[i] = out[i];");
}

}  // namespace quern::test
