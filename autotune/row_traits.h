#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "compiler/dsl.h"

namespace quern {

/// What a trial of a row kernel has to know of its expressions: which contents its operands can
/// have, and how exactly its outputs can agree with another build's.
struct RowTraits {
  struct Operand {
    /// In: the axis that its values index, by number; the shortest where there are several.
    std::vector<int> indexed_axes;
    /// In: a logarithm or a root is taken of what is computed from it.
    bool positive = false;
    // Out and inout, as in RowOutput (templates/row/row.h); of several assignments the worst.
    bool exact = true, sum = false, position = false;
    /// Out and inout: it varies along the whole row, not once a row or a group of it.
    bool per_element = false;
    /// In: a gather reads part of it. One set of iterated axes for each reading.
    std::vector<std::uint32_t> gathers;
    /// In and inout: readings that differ in their constant indices.
    int num_picks = 0;
  };
  std::vector<Operand> operands;  // in the kernel's order
};

RowTraits row_traits(const dsl::Kernel& kernel);

}  // namespace quern
