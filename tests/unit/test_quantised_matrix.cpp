#include "model/quantised_matrix.h"

#include <algorithm>
#include <vector>

#include "runtime/base/error.h"
#include "tests/support/quantised_checkpoint.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

/// Projections of one checkpoint, which lives as long as this object.
struct Projections {
  test::TemporaryFolder folder;
  std::vector<test::PlainQuantised> plain;
  std::optional<Checkpoint> file;
  std::vector<QuantisedLinear> linears;

  Projections(const std::vector<std::int64_t>& outs, std::int64_t in,
              const Quantization& quantization, bool own_orders = false) {
    test::CheckpointWriter writer;
    for (std::size_t i = 0; i < outs.size(); ++i) {
      plain.push_back(
          test::random_quantised(outs[i], in, quantization, static_cast<unsigned>(i + 1)));
      if (!own_orders) plain[i].groups = plain[0].groups;
      writer.add("p" + std::to_string(i), plain[i], quantization);
    }
    writer.write(folder.path() / "all.safetensors");
    file.emplace(folder.path() / "all.safetensors");
    for (std::size_t i = 0; i < outs.size(); ++i)
      linears.push_back(
          load_quantised_linear(*file, "p" + std::to_string(i), outs[i], in, quantization));
  }
  std::vector<const QuantisedLinear*> pointers() const {
    std::vector<const QuantisedLinear*> out;
    for (const QuantisedLinear& linear : linears) out.push_back(&linear);
    return out;
  }
};

/// The matrix's element that input k meets in row n, from the struct's own formula.
float element(const QuantisedMatrix& m, std::int64_t n, std::int64_t column) {
  const std::int64_t per_word = 32 / m.bits, group = column / m.group_size;
  const std::uint32_t word =
      m.codes[static_cast<std::size_t>(n * m.words_per_row() + column / per_word)];
  const std::uint32_t code = word >> (column % per_word * m.bits) & ((1u << m.bits) - 1);
  const auto at = static_cast<std::size_t>(n * m.num_groups() + group);
  const auto zero = m.zeros.empty() ? 1 << (m.bits - 1) : static_cast<int>(m.zeros[at]);
  return static_cast<float>(static_cast<int>(code) - zero) * m.scales[at];
}

}  // namespace

TEST_CASE("matrices of one form mean what the checkpoints mean") {
  ThreadPool pool(3);
  std::vector<Quantization> all;
  for (const std::int64_t group_size : {32, 128, -1}) {
    Quantization awq;
    awq.group_size = group_size;
    all.push_back(awq);
    for (const int bits : {4, 8})
      for (const bool act_order : {false, true})
        for (const bool zero_points : {false, true}) {
          Quantization gptq;
          gptq.method = QuantMethod::gptq;
          gptq.bits = bits;
          gptq.group_size = group_size;
          gptq.act_order = act_order;
          gptq.zero_points = zero_points;
          gptq.zeros_minus_one = bits == 4;
          all.push_back(gptq);
        }
  }
  for (const Quantization& quantization : all) {
    CAPTURE(quantization.text());
    const std::int64_t in = 384;
    const Projections projections({40, 8, 24}, in, quantization);
    const auto parts = projections.pointers();
    CHECK(can_join(parts));
    const QuantisedMatrix matrix = join(parts, pool);
    CHECK_EQ(matrix.out_features, 72);
    CHECK_EQ(matrix.zeros.empty(), !quantization.zero_points);
    CHECK_EQ(matrix.order.empty(), !quantization.act_order || quantization.group_size == -1);
    int differing = 0;
    std::int64_t row = 0;
    for (const test::PlainQuantised& plain : projections.plain)
      for (std::int64_t n = 0; n < plain.out_features; ++n, ++row)
        for (std::int64_t c = 0; c < in; ++c) {
          const std::int64_t k =
              matrix.order.empty() ? c : matrix.order[static_cast<std::size_t>(c)];
          differing += element(matrix, row, c) != plain.weight(n, k);
        }
    CHECK_EQ(differing, 0);
    std::vector<std::int32_t> sorted = matrix.order;
    std::ranges::sort(sorted);
    CHECK(std::ranges::adjacent_find(sorted) == sorted.end());
  }
}

TEST_CASE("interleaved rows are those of the parts, 8 of each in turn") {
  ThreadPool pool(3);
  std::vector<Quantization> all(1);  // AWQ
  for (const int bits : {4, 8})
    for (const bool act_order : {false, true}) {
      all.emplace_back().method = QuantMethod::gptq;
      all.back().bits = bits;
      all.back().act_order = act_order;
      all.back().group_size = 32;
    }
  for (const Quantization& quantization : all) {
    CAPTURE(quantization.text());
    const Projections projections({40, 40}, 256, quantization);
    const auto parts = projections.pointers();
    const QuantisedMatrix in_order = join(parts, pool);
    for (const JoinParts what : {JoinParts::all, JoinParts::without_codes}) {
      const QuantisedMatrix matrix = join(parts, pool, what, JoinRows::interleaved);
      CHECK_EQ(matrix.out_features, 80);
      CHECK_EQ(matrix.order, in_order.order);
      CHECK_EQ(matrix.codes.empty(), what == JoinParts::without_codes);
      const auto rows = [](const auto& values, std::int64_t row) {
        const std::size_t per_row = values.size() / 80, first = static_cast<std::size_t>(row);
        return std::span(values).subspan(first * per_row, per_row);
      };
      for (std::int64_t part = 0; part < 2; ++part)
        for (std::int64_t r = 0; r < 40; ++r) {
          const std::int64_t to = r / 8 * 16 + part * 8 + r % 8, from = part * 40 + r;
          if (!matrix.codes.empty())
            CHECK(std::ranges::equal(rows(matrix.codes, to), rows(in_order.codes, from)));
          CHECK(std::ranges::equal(rows(matrix.scales, to), rows(in_order.scales, from)));
          CHECK(std::ranges::equal(rows(matrix.zeros, to), rows(in_order.zeros, from)));
        }
    }
  }
}

TEST_CASE("projections with different groups cannot be one matrix") {
  Quantization gptq;
  gptq.method = QuantMethod::gptq;
  gptq.act_order = true;
  CHECK_FALSE(can_join(Projections({16, 16}, 256, gptq, true).pointers()));
  CHECK(can_join(Projections({16, 16}, 256, gptq).pointers()));
}

TEST_CASE("groups of different sizes are refused") {
  Quantization gptq;
  gptq.method = QuantMethod::gptq;
  gptq.act_order = true;
  Projections projections({16}, 256, gptq);
  std::vector<std::int32_t> groups(256, 0);
  groups[3] = 1;
  projections.linears[0].g_idx = groups;
  ThreadPool pool(1);
  CHECK_THROWS_WITH_AS(join(projections.pointers(), pool),
                       doctest::Contains("groups of different sizes"), InputError);
}
