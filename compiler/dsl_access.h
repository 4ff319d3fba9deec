#pragma once
#include <cstdint>

#include "compiler/dsl_tree.h"

namespace quern::dsl {

/// How a thread that works on neighbours along the last axis reaches an operand.
struct Access {
  enum class Kind {
    uniform,  // one element for all of the neighbours
    vector,   // neighbours in memory too: they move together
    element,  // one access for each
  };
  Kind kind = Kind::uniform;
  int parts = 1;  // vector: places of fixed axes within the last axis, which move together
  int part = 0;   // which of them is meant
};

Access access_of(const Tree& tree, const Node& load, const Binding& binding);
Access access_of(const Tree& tree, const Store& store, const Binding& binding);

/// True if both loads, which are of Kind::vector, are parts of the same vector.
bool same_vector(const Tree& tree, const Node& a, const Node& b);

/// Constant indices of the fixed dimensions of an operand that come before its last axis, which is followed by
/// fixed ones alone.
std::size_t num_outer_picks(const Tree& tree, int operand);

}  // namespace quern::dsl
