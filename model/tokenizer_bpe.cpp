#include "model/tokenizer_bpe.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <queue>

namespace quern {
namespace {

constexpr std::size_t kNone = static_cast<std::size_t>(-1);

struct Symbol {
  std::int32_t id;  // negative once it has been merged into its left neighbour
  std::size_t previous;
  std::size_t next;
};

/// A pair that could merge when it was queued. It is stale if either side has changed since.
struct Candidate {
  std::int32_t rank;
  std::size_t position;
  std::int32_t left, right, merged;
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

void BpeMerges::add(std::int32_t left, std::int32_t right, std::int32_t merged) {
  merges_.try_emplace(key(left, right), Merge{static_cast<std::int32_t>(merges_.size()), merged});
}

void BpeMerges::apply(std::vector<std::int32_t>& ids) const {
  if (ids.size() < 2) return;
  std::vector<Symbol> symbols(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i)
    symbols[i] = {ids[i], i == 0 ? kNone : i - 1, i + 1 == ids.size() ? kNone : i + 1};

  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::size_t position) {
    if (position == kNone || symbols[position].next == kNone) return;
    const std::int32_t left = symbols[position].id, right = symbols[symbols[position].next].id;
    const auto found = merges_.find(key(left, right));
    if (found != merges_.end())
      queue.push({found->second.rank, position, left, right, found->second.merged});
  };
  for (std::size_t i = 0; i < symbols.size(); ++i) consider(i);

  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.position];
    if (left.id != best.left || left.next == kNone || symbols[left.next].id != best.right) continue;
    Symbol& right = symbols[left.next];
    left.id = best.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next != kNone) symbols[left.next].previous = best.position;
    consider(left.previous);
    consider(best.position);
  }
  ids.clear();
  for (std::size_t i = 0; i != kNone; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace quern
