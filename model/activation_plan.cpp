#include "model/activation_plan.h"

#include <algorithm>
#include <numeric>

namespace quern {

int ActivationPlan::add(std::size_t bytes) {
  constexpr std::size_t alignment = 256;
  tensors_.push_back({(bytes + alignment - 1) / alignment * alignment});
  return static_cast<int>(tensors_.size()) - 1;
}

void ActivationPlan::use(int tensor, int index) {
  Tensor& t = tensors_[static_cast<std::size_t>(tensor)];
  if (t.first < 0) t.first = index;
  t.first = std::min(t.first, index);
  t.last = std::max(t.last, index);
}

void ActivationPlan::place() {
  std::vector<std::size_t> order(tensors_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return tensors_[a].bytes > tensors_[b].bytes;
  });
  std::vector<const Tensor*> placed;  // by offset
  total_ = 0;
  for (const std::size_t id : order) {
    Tensor& t = tensors_[id];
    if (t.first < 0) continue;
    std::size_t offset = 0;
    for (const Tensor* other : placed) {
      if (other->last < t.first || other->first > t.last) continue;
      if (offset + t.bytes <= other->offset) break;
      offset = std::max(offset, other->offset + other->bytes);
    }
    t.offset = offset;
    total_ = std::max(total_, offset + t.bytes);
    const auto at = std::upper_bound(
        placed.begin(), placed.end(), &t,
        [](const Tensor* a, const Tensor* b) { return a->offset < b->offset; });
    placed.insert(at, &t);
  }
}

}  // namespace quern
