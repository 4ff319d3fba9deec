#include "templates/attention/paged_cache.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace quern {

std::optional<std::string> out_of_range(const char* field, std::int64_t value, std::int64_t low,
                                        std::int64_t high) {
  if (value >= low && value <= high) return std::nullopt;
  return fmt::format("'{}' should be from {} to {}, not {}", field, low, high, value);
}

std::optional<std::string> PagedHeads::complaint() const {
  constexpr int many = 1 << 24;
  if (auto c = out_of_range("num_heads", num_heads, 1, 1024)) return c;
  if (auto c = out_of_range("num_kv_heads", num_kv_heads, 1, num_heads)) return c;
  if (auto c = out_of_range("head_dim", head_dim, 8, 256)) return c;
  if (auto c = out_of_range("page_size", page_size, 16, 4096)) return c;
  if (auto c = out_of_range("num_pages", num_pages, 1, many)) return c;
  if (auto c = out_of_range("max_blocks", max_blocks, 1, many)) return c;
  if (auto c = out_of_range("batch", batch, 1, 65535)) return c;
  if (num_heads % num_kv_heads != 0)
    return fmt::format("{} heads do not divide into {} groups of one KV head each", num_heads,
                       num_kv_heads);
  if (num_heads / num_kv_heads > 16)
    return fmt::format("{} heads per KV head are more than the 16 that are supported",
                       num_heads / num_kv_heads);
  if (head_dim % 8 != 0) return fmt::format("head_dim {} is not a multiple of 8", head_dim);
  if ((page_size & (page_size - 1)) != 0)
    return fmt::format("page_size {} is not a power of two", page_size);
  if (static_cast<std::int64_t>(max_blocks) * page_size > (1 << 30))
    return fmt::format("{} blocks of {} tokens exceed a sequence of 2^30", max_blocks, page_size);
  if (dtype != DType::bf16 && dtype != DType::f16)
    return fmt::format("activations are bf16 or f16, not {}", name(dtype));
  return std::nullopt;
}

std::vector<std::int32_t> scrambled_block_table(std::span<const std::int32_t> kv_len,
                                                int max_blocks, int num_pages, int page_size) {
  std::vector<std::int32_t> pages(static_cast<std::size_t>(num_pages));
  std::iota(pages.begin(), pages.end(), 0);
  std::mt19937 random(20240229);
  for (std::size_t i = pages.size() - 1; i > 0; --i) std::swap(pages[i], pages[random() % (i + 1)]);
  std::vector<std::int32_t> table;
  table.reserve(kv_len.size() * static_cast<std::size_t>(max_blocks));
  std::size_t next = 0;
  for (const int length : kv_len)
    for (int block = 0; block < max_blocks; ++block) {
      const bool used = static_cast<std::int64_t>(block) * page_size < length;
      table.push_back(used ? pages[next++ % pages.size()] : num_pages - 1);
    }
  return table;
}

}  // namespace quern
