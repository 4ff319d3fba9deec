#include "model/quantised_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <numeric>

#include "model/row_interleave.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

// Rows that a task converts: two words of a packed row of AWQ, a cache line of GPTQ's.
constexpr std::int64_t kTaskRows = 16;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Where rows of a projection go.
struct RowPlaces {
  static constexpr std::int64_t kGroup = kInterleavedRows;
  std::int64_t first = 0;  // of the matrix
  bool interleaved = false;
  std::int64_t operator()(std::int64_t n) const {
    return first + n + (interleaved ? n / kGroup * kGroup : 0);
  }
};

/// Words of outputs [begin, end) of GPTQ, of columns from `column` on, in any order.
void gather_gptq(const QuantisedLinear& linear, const std::vector<std::int32_t>& order,
                 std::int64_t begin, std::int64_t end, std::int64_t column, RowPlaces to,
                 std::uint32_t* out, std::int64_t stride) {
  const std::int64_t per_word = linear.codes_per_word();
  const std::uint32_t mask = (1u << linear.bits) - 1;
  for (std::int64_t n = begin; n < end; ++n) out[to(n) * stride] = 0;
  for (std::int64_t i = 0; i < per_word; ++i) {
    const std::int64_t k = order[index(column + i)];
    const std::uint32_t* row = linear.qweight.data() + k / per_word * linear.out_features;
    const std::int64_t shift = k % per_word * linear.bits, place = i * linear.bits;
    for (std::int64_t n = begin; n < end; ++n)
      out[to(n) * stride] |= (row[n] >> shift & mask) << place;
  }
}

/// Words of eight outputs of AWQ: a transposition of 8 by 8 nibbles.
void transpose_awq(const QuantisedLinear& linear, std::int64_t n, std::int64_t word,
                   std::uint32_t* out, std::int64_t stride) {
  std::uint32_t in[8];
  for (std::int64_t i = 0; i < 8; ++i)
    in[i] = linear.qweight[index(((word * 8 + i) * linear.out_features + n) / 8)];
  for (int c = 0; c < 8; ++c) {
    std::uint32_t codes = 0;
    for (int i = 0; i < 8; ++i) codes |= (in[i] >> awq_shift(c) & 15) << (4 * i);
    out[c * stride] = codes;
  }
}

/// Rows [begin, end) of a projection to their places in the matrix.
void convert_rows(const QuantisedLinear& linear, std::int64_t begin, std::int64_t end, RowPlaces to,
                  QuantisedMatrix& out) {
  const std::int64_t words = out.words_per_row(), groups = out.num_groups();
  const std::int64_t per_word = linear.codes_per_word();
  std::uint32_t* codes = out.codes.data();
  for (std::int64_t w = 0; w < words && !out.codes.empty(); ++w) {
    if (!out.order.empty()) {
      gather_gptq(linear, out.order, begin, end, w * per_word, to, codes + w, words);
    } else if (linear.method == QuantMethod::awq) {
      for (std::int64_t n = begin; n < end; n += 8)
        transpose_awq(linear, n, w, codes + to(n) * words + w, words);
    } else {
      const std::uint32_t* row = linear.qweight.data() + w * linear.out_features;
      for (std::int64_t n = begin; n < end; ++n) codes[to(n) * words + w] = row[n];
    }
  }
  for (std::int64_t n = begin; n < end; ++n)
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::size_t at = index(to(n) * groups + g);
      out.scales[at] = linear.scale(n, g);
      if (!out.zeros.empty()) out.zeros[at] = static_cast<std::uint8_t>(linear.zero_point(n, g));
    }
}

}  // namespace

std::vector<std::int32_t> sorted_by_group(const QuantisedLinear& linear) {
  if (linear.g_idx.empty()) return {};
  std::vector<std::int32_t> order(linear.g_idx.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, [&](std::int32_t k) { return linear.group(k); });
  for (std::int64_t k = 0; k < linear.in_features; ++k)
    if (linear.group(order[index(k)]) != k / linear.group_size)
      throw InputError(fmt::format(
          "tensor \"{}.g_idx\" makes groups of different sizes, which only the CPU can run",
          linear.name));
  if (std::ranges::is_sorted(order)) return {};
  return order;
}

bool can_join(std::span<const QuantisedLinear* const> parts) {
  const QuantisedLinear& first = *parts.front();
  return std::ranges::all_of(parts, [&](const QuantisedLinear* part) {
    return part->bits == first.bits && part->in_features == first.in_features &&
           part->group_size == first.group_size && part->zero_points == first.zero_points &&
           std::ranges::equal(part->g_idx, first.g_idx);
  });
}

QuantisedMatrix join(std::span<const QuantisedLinear* const> parts, ThreadPool& pool,
                     JoinParts what, JoinRows rows) {
  const bool interleaved = rows == JoinRows::interleaved;
  assert(!interleaved || (parts.size() == 2 && parts[0]->out_features == parts[1]->out_features &&
                          parts[0]->out_features % RowPlaces::kGroup == 0));
  const QuantisedLinear& first = *parts.front();
  QuantisedMatrix out;
  out.bits = first.bits;
  out.in_features = first.in_features;
  out.group_size = first.group_size;
  out.order = sorted_by_group(first);
  struct Task {
    const QuantisedLinear* linear;
    std::int64_t begin;
    RowPlaces to;
  };
  std::vector<Task> tasks;
  std::int64_t first_row = 0;
  for (const QuantisedLinear* part : parts) {
    for (std::int64_t begin = 0; begin < part->out_features; begin += kTaskRows)
      tasks.push_back({part, begin, {first_row, interleaved}});
    first_row += interleaved ? RowPlaces::kGroup : part->out_features;
    out.out_features += part->out_features;
  }
  if (what == JoinParts::all) out.codes.resize(index(out.out_features * out.words_per_row()));
  out.scales.resize(index(out.out_features * out.num_groups()));
  if (first.zero_points) out.zeros.resize(out.scales.size());
  pool.parallel_for(tasks.size(), [&](std::size_t i) {
    const Task& task = tasks[i];
    convert_rows(*task.linear, task.begin,
                 std::min(task.begin + kTaskRows, task.linear->out_features), task.to, out);
  });
  return out;
}

}  // namespace quern
