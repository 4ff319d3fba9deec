#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/dtype.h"
#include "templates/family.h"

namespace quern {

/// What rope_append and both attention kernels ask of the heads and of the paged cache, as a
/// sentence if it is not met. The cache is [num_pages, num_kv_heads, page_size, head_dim] for keys
/// and as much for values.
struct PagedHeads {
  int num_heads = 0, num_kv_heads = 0, head_dim = 0, page_size = 0;
  int num_pages = 0, max_blocks = 0, batch = 0;
  DType dtype = DType::bf16;
  std::optional<std::string> complaint() const;
};

/// "'batch' should be from 1 to 65535, not 0", or nothing.
std::optional<std::string> out_of_range(const char* field, std::int64_t value, std::int64_t low,
                                        std::int64_t high);

/// A block table for trials: pages 0..num_pages-1 in a scrambled, reproducible order, dealt to the
/// blocks that `kv_len` fills; entries past a sequence's length name the last page.
/// Where there are fewer pages than blocks, pages are shared, which only a reader may do.
std::vector<std::int32_t> scrambled_block_table(std::span<const std::int32_t> kv_len,
                                                int max_blocks, int num_pages, int page_size);

}  // namespace quern
