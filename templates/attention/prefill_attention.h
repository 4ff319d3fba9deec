#pragma once
#include "templates/family.h"

namespace quern {

/// Causal attention of a ragged batch of new tokens over the paged cache, which holds their keys
/// and values already. Operands:
///   q            [num_tokens, num_heads * head_dim]
///   k_cache, v_cache  [num_pages, num_kv_heads, page_size, head_dim]
///   block_table  i32 [batch, max_blocks]
///   query_start  i32 [batch + 1]: sequence s has queries query_start[s] .. query_start[s + 1] - 1
///   kv_len       i32 [batch], the new tokens included
///   out (out)    [num_tokens, num_heads * head_dim]; rows outside every sequence stay as they were
/// Query i of sequence s stands at position kv_len[s] - query_len[s] + i and sees what is not after
/// it.
struct PrefillAttentionProblem {
  int num_tokens = 512;     // dynamic
  int batch = 1;            // dynamic
  int max_query_len = 512;  // dynamic: bounds the grid
  int max_blocks = 16;      // dynamic
  int num_pages = 16;       // dynamic
  int num_heads = 32, num_kv_heads = 8, head_dim = 128, page_size = 64;
  int window = 0;  // positions that a query sees, itself included; 0 = all
  DType dtype = DType::bf16;
  static constexpr auto fields() {
    using P = PrefillAttentionProblem;
    return std::tuple{std::pair{"num_tokens", &P::num_tokens},
                      std::pair{"batch", &P::batch},
                      std::pair{"max_query_len", &P::max_query_len},
                      std::pair{"max_blocks", &P::max_blocks},
                      std::pair{"num_pages", &P::num_pages},
                      std::pair{"num_heads", &P::num_heads},
                      std::pair{"num_kv_heads", &P::num_kv_heads},
                      std::pair{"head_dim", &P::head_dim},
                      std::pair{"page_size", &P::page_size},
                      std::pair{"window", &P::window},
                      std::pair{"dtype", &P::dtype}};
  }
};

struct PrefillAttentionConfig {
  std::string kernel = "mma";  // "mma", or "reference": the formula with plain loops
  int warps = 4;
  int row_tiles = 1;       // m16 tiles of rows per warp
  int tile_kv = 64;        // cache positions per tile
  int stages = 2;          // tiles in flight
  bool pack_group = true;  // rows are (query, head of a KV group) pairs rather than queries
  int blocks_per_sm = 1;   // register bound
  bool pdl = true;
  static constexpr auto fields() {
    using C = PrefillAttentionConfig;
    return std::tuple{std::pair{"kernel", &C::kernel},
                      std::pair{"warps", &C::warps},
                      std::pair{"row_tiles", &C::row_tiles},
                      std::pair{"tile_kv", &C::tile_kv},
                      std::pair{"stages", &C::stages},
                      std::pair{"pack_group", &C::pack_group},
                      std::pair{"blocks_per_sm", &C::blocks_per_sm},
                      std::pair{"pdl", &C::pdl}};
  }
  bool operator==(const PrefillAttentionConfig&) const = default;
};

class PrefillAttentionFamily : public Family {
 public:
  std::string_view name() const override { return "prefill_attention"; }
  std::vector<std::string> dynamic_fields() const override;
  std::vector<Tunable> space(const Params& problem) const override;
  RankedSpace ranked_space(const Params& problem, const Arch& arch) const override;
  Params default_config(const Params& problem, const Arch& arch) const override;
  double estimate_us(const Params& problem, const Params& config, const Arch& arch) const override;
  std::optional<std::string> unsupported(const Params& problem, const Arch& arch) const override;
  std::optional<std::string> reject_reason(const Params& problem, const Params& config,
                                           const Arch& arch) const override;
  Params reference_config(const Params& problem) const override;
  KernelSource source(const Params& problem, const Params& config, const Arch& arch) const override;
  LaunchPlan plan(const Params& problem, const Params& config, const Arch& arch) const override;
  std::vector<OperandSpec> operands(const Params& problem) const override;
  std::vector<std::byte> pack_args(const Params& problem, const Params& config,
                                   std::span<const std::uint64_t> addresses,
                                   std::uint64_t workspace) const override;
  Cost cost(const Params& problem) const override;
  Tolerance tolerance(const Params& problem, std::size_t index) const override;
};

}  // namespace quern
