#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace quern {

/// Hands out the blocks of a paged KV cache (Kwon et al. 2023, arXiv:2309.06180): each holds the
/// keys and values of `block_size` consecutive tokens in every layer. Book-keeping alone; where the
/// blocks lie is a backend's business. A block may have several owners, for shared prefixes.
class KvBlockAllocator {
 public:
  /// Both must be positive.
  KvBlockAllocator(std::int32_t num_blocks, std::int32_t block_size);

  std::int32_t block_size() const { return block_size_; }
  std::int32_t num_blocks() const { return static_cast<std::int32_t>(num_owners_.size()); }
  std::int32_t num_free() const { return static_cast<std::int32_t>(free_.size()); }

  /// A free block, now with one owner; nothing if there is none. A fresh allocator gives 0, 1, 2,
  /// ...
  std::optional<std::int32_t> allocate();
  /// One more owner for a block that has some.
  void share(std::int32_t block);
  /// One owner less; without owners the block is free again, and next to be handed out.
  void release(std::int32_t block);

 private:
  std::int32_t block_size_;
  std::vector<std::int32_t> num_owners_;  // [num_blocks]
  std::vector<std::int32_t> free_;        // a stack
};

/// The blocks of one sequence: token t lies in blocks()[t / block_size], slot t % block_size.
class KvSequence {
 public:
  /// The allocator must outlive the sequence.
  explicit KvSequence(KvBlockAllocator& allocator) : allocator_(allocator) {}
  ~KvSequence() { truncate(0); }
  KvSequence(const KvSequence&) = delete;
  KvSequence& operator=(const KvSequence&) = delete;

  std::int64_t length() const { return length_; }  // tokens
  std::span<const std::int32_t> blocks() const { return blocks_; }
  /// Adds room for `count` tokens; false, and no change, if there are too few free blocks.
  bool extend(std::int64_t count);
  /// Keeps the first `length` tokens and gives back the blocks that they do not need.
  void truncate(std::int64_t length);

 private:
  KvBlockAllocator& allocator_;
  std::int64_t length_ = 0;
  std::vector<std::int32_t> blocks_;
};

}  // namespace quern
