#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace quern {

/// Places tensors whose lifetimes are known into one arena, so that graph memory is known before the
/// KV cache is sized. Greedy by size, each at the lowest offset free for its whole lifetime
/// (Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference").
class ActivationPlan {
 public:
  /// Declares a tensor; returns its id.
  int add(std::size_t bytes);
  /// Node `index` reads or writes `tensor`. Nodes run in order of index.
  void use(int tensor, int index);
  /// Assigns offsets, 256-byte aligned. Tensors without a use get no room.
  void place();

  std::size_t offset(int tensor) const { return tensors_[static_cast<std::size_t>(tensor)].offset; }
  /// Size of the arena, after place().
  std::size_t total_bytes() const { return total_; }

 private:
  struct Tensor {
    std::size_t bytes = 0, offset = 0;
    int first = -1, last = -1;
  };
  std::vector<Tensor> tensors_;
  std::size_t total_ = 0;
};

}  // namespace quern
