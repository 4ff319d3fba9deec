#pragma once
#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace quern::test {

/// At most `limit` of a ranked list: the first half of them its best, the others spread over the
/// rest. The same for the same list.
template <class T>
std::vector<T> spread(std::vector<T> ranked, std::size_t limit) {
  if (ranked.size() <= limit) return ranked;
  const std::size_t best = (limit + 1) / 2, rest = limit - best;
  std::vector<T> out(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(best));
  for (std::size_t i = 1; i <= rest; ++i)
    out.push_back(std::move(ranked[best + i * (ranked.size() - best) / rest - 1]));
  return out;
}

}  // namespace quern::test
