#include "model/kernel_order.h"

#include <random>

#include "runtime/base/error.h"
#include "runtime/base/half.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

QuantisedMatrix random_matrix(std::int64_t out, std::int64_t in, int bits, std::int64_t group_size,
                              bool zero_points) {
  QuantisedMatrix m;
  m.bits = bits;
  m.out_features = out;
  m.in_features = in;
  m.group_size = group_size;
  m.codes.resize(static_cast<std::size_t>(out * m.words_per_row()));
  m.scales.resize(static_cast<std::size_t>(out * m.num_groups()));
  if (zero_points) m.zeros.resize(m.scales.size());
  std::mt19937 engine(7);
  for (std::uint32_t& word : m.codes) word = static_cast<std::uint32_t>(engine());
  for (float& scale : m.scales) scale = static_cast<float>(engine() % 1000) / 1024;
  for (std::uint8_t& zero : m.zeros) zero = static_cast<std::uint8_t>(engine() % (1u << bits));
  return m;
}

std::uint32_t code(const QuantisedMatrix& m, std::int64_t n, std::int64_t k) {
  const std::int64_t per_word = 32 / m.bits;
  return m.codes[static_cast<std::size_t>(n * m.words_per_row() + k / per_word)] >>
             (k % per_word * m.bits) &
         ((1u << m.bits) - 1);
}

}  // namespace

// What templates/gemm_wna16/gemm_wna16_args.h says, lane by lane and register by register: with
// g = lane / 4 and t = lane % 4, register j of a k16 step has row g + 8 (j % 2), columns
// 2t + 8 (j / 2) and the one after it.
TEST_CASE("codes, scales and zero points lie where the kernels look for them") {
  ThreadPool pool(2);
  for (const int bits : {4, 8})
    for (const std::int64_t group_size : {32, 64, 384})
      for (const bool zero_points : {false, true}) {
        CAPTURE(bits);
        CAPTURE(group_size);
        const QuantisedMatrix m = random_matrix(48, 384, bits, group_size, zero_points);
        const KernelOrder order = kernel_order(m, DType::f16, pool);
        const KernelOrderBytes bytes = kernel_order_bytes(48, 384, bits, group_size, zero_points);
        CHECK_EQ(bytes.codes, 4 * order.codes.size());
        CHECK_EQ(bytes.scales, 2 * order.scales.size());
        CHECK_EQ(bytes.zeros, order.zeros.size());
        const std::int64_t unit_columns = bits == 4 ? 64 : 32, units = 384 / unit_columns;
        int differing = 0;
        for (std::int64_t tile = 0; tile < 3; ++tile)
          for (std::int64_t unit = 0; unit < units; ++unit)
            for (std::int64_t lane = 0; lane < 32; ++lane)
              for (std::int64_t step = 0; step < unit_columns / 16; ++step)
                for (std::int64_t j = 0; j < 4; ++j)
                  for (std::int64_t half = 0; half < 2; ++half) {
                    const std::int64_t n = tile * 16 + lane / 4 + 8 * (j % 2);
                    const std::int64_t k =
                        unit * unit_columns + step * 16 + lane % 4 * 2 + 8 * (j / 2) + half;
                    const std::uint32_t* mine =
                        order.codes.data() + ((tile * units + unit) * 32 + lane) * 4;
                    const std::uint32_t stored =
                        bits == 4 ? mine[step] >> (4 * (j + 4 * half)) & 15
                                  : mine[2 * step + j / 2] >> (8 * (j % 2 + 2 * half)) & 255;
                    differing += stored != code(m, n, k);
                  }
        const std::int64_t groups = m.num_groups();
        for (std::int64_t n = 0; n < 48; ++n)
          for (std::int64_t g = 0; g < groups; ++g) {
            const auto from = static_cast<std::size_t>(n * groups + g);
            const auto to =
                static_cast<std::size_t>((n / 16 * groups + g) * 16 + n % 8 * 2 + n % 16 / 8);
            differing += order.scales[to] != f32_to_f16(m.scales[from]);
            if (zero_points) differing += order.zeros[to] != m.zeros[from];
          }
        CHECK_EQ(differing, 0);
      }
}

TEST_CASE("matrices that make no whole tiles are refused") {
  ThreadPool pool(1);
  CHECK_THROWS_AS(kernel_order(random_matrix(40, 64, 4, 64, false), DType::f16, pool), InputError);
  CHECK_THROWS_AS(kernel_order(random_matrix(16, 96, 4, 32, false), DType::f16, pool), InputError);
}
