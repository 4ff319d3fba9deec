#pragma once
#include <set>
#include <string>
#include <vector>

#include "compiler/dsl_cuda_helpers.h"
#include "compiler/dsl_cuda_text.h"
#include "compiler/dsl_tree.h"

namespace quern::dsl {

/// Threads that hold parts of one value.
struct Sharers {
  int lanes = 1;    // of one block
  int threads = 1;  // of a block
  int cluster = 1;  // blocks
  /// The threads of a column are `threads / lanes` apart, rather than neighbours.
  bool apart = false;
  /// They take several rows in turn: `turn` (0 or 1) tells neighbouring ones apart.
  bool in_turns = false;
};

/// The folding of values as C++ text: within a thread, and among the threads that share a row or a
/// segment of one.
class CudaReductions {
 public:
  CudaReductions(const Tree& tree, Helpers& helpers, const Sharers& row, const Sharers& segment)
      : tree_(tree), helpers_(helpers), row_(row), segment_(segment) {}

  /// "float", or "Indexed" for a value with its position.
  std::string type(const Node& reduction);
  std::string identity(const Node& reduction);
  /// "h_sum += value;"
  std::string fold(const Node& reduction, const std::string& partial, const Code& value,
                   const std::string& position);
  /// A thread's part, folded with those of the others: "row_sum(partial)". Each thread gets the
  /// result. For an argmin or argmax the position of it.
  Code over_row(const Node& reduction, const std::string& partial);
  Code over_segment(const Node& reduction, const std::string& partial);
  /// A statement that waits for the threads that share a row or a segment.
  std::string row_barrier();
  std::string segment_barrier();

  /// Declarations of the shared memory that is used so far.
  std::vector<std::string> shared_memory() const;
  /// The functions used so far, to be placed after the helpers.
  std::string functions();

 private:
  /// What tells one way of folding from another.
  struct Fold {
    std::string name;  // "sum", "argmax", "product"
    std::string identity;
    bool indexed = false;
    int combine = -1;
    bool operator<(const Fold& other) const { return name < other.name; }
  };
  Fold fold_of(const Node& reduction) const;
  std::string folded(const Fold& fold, const std::string& a, const std::string& b);
  std::string lanes_function(const Fold& fold, const std::string& name, int lanes,
                             const std::string& what);
  std::string row_functions(const Fold& fold);
  std::string column_function(const Fold& fold);
  bool is_in_shared_memory() const { return row_.lanes > 32 || row_.cluster > 1 || row_.apart; }
  Code result(const Node& reduction, const std::string& text) const;

  const Tree& tree_;
  Helpers& helpers_;
  Sharers row_, segment_;
  std::vector<Fold> over_row_, over_segment_;  // used so far
  std::set<int> combines_;
  int num_shared_[2] = {0, 0};  // of floats, of values with positions
  bool row_barrier_ = false, segment_barrier_ = false;
};

}  // namespace quern::dsl
