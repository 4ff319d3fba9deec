#include "model/kernel_order.h"

#include <fmt/format.h>

#include "runtime/base/error.h"
#include "runtime/base/half.h"
#include "templates/gemm_wna16/gemm_wna16_args.h"

namespace quern {
namespace {

constexpr std::int64_t kTileRows = kWna16UnitRows, kLanes = 32, kLaneWords = 4;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

/// The 16 bytes of one lane, for 64 columns of 4 bits: a word for each k16 step. `row` and `row8`
/// are the codes of rows lane / 4 and lane / 4 + 8, eight to a word.
void lane_of_4_bits(const std::uint32_t* row, const std::uint32_t* row8, int t,
                    std::uint32_t* out) {
  for (int s = 0; s < 4; ++s) {
    std::uint32_t word = 0;
    for (int half = 0; half < 2; ++half) {  // columns 2t and 2t + 1
      const int shift = 4 * (2 * t + half), to = 16 * half;
      word |= (row[2 * s] >> shift & 15) << to;
      word |= (row8[2 * s] >> shift & 15) << (to + 4);
      word |= (row[2 * s + 1] >> shift & 15) << (to + 8);
      word |= (row8[2 * s + 1] >> shift & 15) << (to + 12);
    }
    out[s] = word;
  }
}

/// The same for 32 columns of 8 bits, four to a word: two words for each of two k16 steps.
void lane_of_8_bits(const std::uint32_t* row, const std::uint32_t* row8, int t,
                    std::uint32_t* out) {
  for (int s = 0; s < 2; ++s)
    for (int high = 0; high < 2; ++high) {  // columns 0 to 7, or 8 to 15, of the step
      const int at = 4 * s + 2 * high + t / 2, shift = 16 * (t % 2);
      const std::uint32_t a = row[at] >> shift, b = row8[at] >> shift;
      out[2 * s + high] = (a & 255) | (b & 255) << 8 | (a >> 8 & 255) << 16 | (b >> 8 & 255) << 24;
    }
}

void tile_codes(const QuantisedMatrix& m, std::int64_t tile, std::uint32_t* out) {
  const std::int64_t units = m.in_features / wna16_unit_columns(m.bits), words = m.words_per_row();
  const std::int64_t unit_words = words / units;
  for (std::int64_t unit = 0; unit < units; ++unit)
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const std::uint32_t* row =
          m.codes.data() + (tile * kTileRows + lane / 4) * words + unit * unit_words;
      std::uint32_t* to = out + (unit * kLanes + lane) * kLaneWords;
      const auto t = static_cast<int>(lane % 4);
      m.bits == 4 ? lane_of_4_bits(row, row + 8 * words, t, to)
                  : lane_of_8_bits(row, row + 8 * words, t, to);
    }
}

}  // namespace

KernelOrderBytes kernel_order_bytes(std::int64_t out_features, std::int64_t in_features, int bits,
                                    std::int64_t group_size, bool zero_points) {
  const std::size_t groups = index(out_features) * index(in_features / group_size);
  return {index(out_features) * index(in_features) * index(bits) / 8, 2 * groups,
          zero_points ? groups : 0};
}

KernelOrder kernel_order(const QuantisedMatrix& matrix, DType dtype, ThreadPool& pool) {
  if (matrix.out_features % kTileRows != 0 || matrix.in_features % 64 != 0)
    throw InputError(fmt::format(
        "a quantised weight of [{}, {}] does not fit the GPU's kernels, which take multiples of "
        "16 outputs and 64 inputs",
        matrix.out_features, matrix.in_features));
  KernelOrder out;
  const std::int64_t tiles = matrix.out_features / kTileRows, groups = matrix.num_groups();
  out.codes.resize(matrix.codes.size());
  out.scales.resize(matrix.scales.size());
  out.zeros.resize(matrix.zeros.size());
  const std::int64_t tile_words = kTileRows * matrix.words_per_row();
  pool.parallel_for(index(tiles), [&](std::size_t i) {
    const auto tile = static_cast<std::int64_t>(i);
    if (!out.codes.empty()) tile_codes(matrix, tile, out.codes.data() + tile * tile_words);
    for (std::int64_t r = 0; r < kTileRows; ++r)
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::size_t from = index((tile * kTileRows + r) * groups + g);
        const std::size_t to = index((tile * groups + g) * kTileRows + r % 8 * 2 + r / 8);
        const float scale = matrix.scales[from];
        out.scales[to] = dtype == DType::bf16 ? f32_to_bf16(scale) : f32_to_f16(scale);
        if (!matrix.zeros.empty()) out.zeros[to] = matrix.zeros[from];
      }
  });
  return out;
}

}  // namespace quern
