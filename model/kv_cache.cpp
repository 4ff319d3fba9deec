#include "model/kv_cache.h"

#include <algorithm>
#include <cassert>

namespace quern {

KvBlockAllocator::KvBlockAllocator(std::int32_t num_blocks, std::int32_t block_size)
    : block_size_(block_size), num_owners_(static_cast<std::size_t>(num_blocks), 0) {
  assert(num_blocks > 0 && block_size > 0);
  for (std::int32_t block = num_blocks; block-- > 0;) free_.push_back(block);
}

std::optional<std::int32_t> KvBlockAllocator::allocate() {
  if (free_.empty()) return std::nullopt;
  const std::int32_t block = free_.back();
  free_.pop_back();
  num_owners_[static_cast<std::size_t>(block)] = 1;
  return block;
}

void KvBlockAllocator::share(std::int32_t block) {
  assert(num_owners_[static_cast<std::size_t>(block)] > 0);
  ++num_owners_[static_cast<std::size_t>(block)];
}

void KvBlockAllocator::release(std::int32_t block) {
  std::int32_t& owners = num_owners_[static_cast<std::size_t>(block)];
  assert(owners > 0);
  if (--owners == 0) free_.push_back(block);
}

bool KvSequence::extend(std::int64_t count) {
  const std::int64_t block_size = allocator_.block_size();
  const std::int64_t needed = (length_ + count + block_size - 1) / block_size;
  if (needed - static_cast<std::int64_t>(blocks_.size()) > allocator_.num_free()) return false;
  while (static_cast<std::int64_t>(blocks_.size()) < needed)
    blocks_.push_back(*allocator_.allocate());
  length_ += count;
  return true;
}

void KvSequence::truncate(std::int64_t length) {
  length_ = std::min(length_, length);
  const std::int64_t block_size = allocator_.block_size();
  const std::int64_t needed = (length_ + block_size - 1) / block_size;
  while (static_cast<std::int64_t>(blocks_.size()) > needed) {
    allocator_.release(blocks_.back());
    blocks_.pop_back();
  }
}

}  // namespace quern
