#pragma once
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

namespace quern {

/// The merge table of byte-pair encoding (Sennrich et al. 2016): which neighbours join, in which
/// order, and into what.
class BpeMerges {
 public:
  /// Earlier calls rank first. A pair that is already there keeps its rank.
  void add(std::int32_t left, std::int32_t right, std::int32_t merged);

  /// Replaces neighbours in `symbols` by their merges, lowest rank first, leftmost first among
  /// equals, until none applies. O(n log n): a linked list of symbols and a heap of pairs.
  void apply(std::vector<std::int32_t>& symbols) const;

 private:
  struct Merge {
    std::int32_t rank;
    std::int32_t merged;
  };
  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }

  std::unordered_map<std::uint64_t, Merge> merges_;
};

}  // namespace quern
