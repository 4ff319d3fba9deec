#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "model/quantised_linear.h"
#include "runtime/base/thread_pool.h"

namespace quern {

/// The one form that every format of quantised weights is brought into on its way to a GPU:
///
///   w[n, order[k]] = (code[n, k] - zero[n, g]) * scale[n, g],   g = k / group_size
///
/// Columns are sorted by group, so that groups are consecutive; x has to be gathered with `order`
/// before it is multiplied, which is what act-order costs.
struct QuantisedMatrix {
  int bits = 4;
  std::int64_t out_features = 0, in_features = 0, group_size = 0;
  std::vector<std::uint32_t> codes;  // [out, in * bits / 32]: a row's codes from the low bits on
  std::vector<float> scales;         // [out, groups]
  std::vector<std::uint8_t> zeros;   // [out, groups]; empty: all are 2^(bits - 1)
  std::vector<std::int32_t> order;   // [in]; empty: columns are in their place

  std::int64_t num_groups() const { return in_features / group_size; }
  std::int64_t words_per_row() const { return in_features * bits / 32; }
};

/// Inputs sorted by group, those of a group in their order: `order` of the matrix. Empty where they
/// are in their place. Throws InputError where g_idx does not give every group as many inputs as
/// the others.
std::vector<std::int32_t> sorted_by_group(const QuantisedLinear& linear);

/// Whether projections of one input can be rows of one matrix: the same packing and the same
/// groups.
bool can_join(std::span<const QuantisedLinear* const> parts);

/// What join() converts: `without_codes` leaves the codes empty, for whoever repacks them
/// elsewhere.
enum class JoinParts { all, without_codes };

/// Rows of several projections one after another; or, of two with a multiple of 8 rows each,
/// interleaved (model/row_interleave.h).
enum class JoinRows { in_order, interleaved };

/// Rows of several projections, which can_join() allows, as one matrix. Throws InputError as
/// sorted_by_group() does.
QuantisedMatrix join(std::span<const QuantisedLinear* const> parts, ThreadPool& pool,
                     JoinParts what = JoinParts::all, JoinRows rows = JoinRows::in_order);

}  // namespace quern
