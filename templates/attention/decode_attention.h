#pragma once
#include "templates/family.h"

namespace quern {

/// Attention of one new token per sequence over the paged cache. Operands:
///   q            [batch, num_heads * head_dim]
///   k_cache, v_cache  [num_pages, num_kv_heads, page_size, head_dim]
///   block_table  i32 [batch, max_blocks]
///   kv_len       i32 [batch], the new token included; a sequence of length 0 gets zeros
///   out (out)    [batch, num_heads * head_dim]
/// One launch serves every kv_len up to what the block table holds: lengths are read on the device.
struct DecodeAttentionProblem {
  int batch = 1;          // dynamic
  int max_blocks = 16;    // dynamic
  int num_pages = 16;     // dynamic
  int max_kv_len = 1024;  // dynamic: longest kv_len to expect; sets how many splits are worthwhile
  int num_heads = 32, num_kv_heads = 8, head_dim = 128, page_size = 64;
  int window = 0;  // positions that a query sees, itself included; 0 = all
  DType dtype = DType::bf16;
  static constexpr auto fields() {
    using P = DecodeAttentionProblem;
    return std::tuple{
        std::pair{"batch", &P::batch},         std::pair{"max_blocks", &P::max_blocks},
        std::pair{"num_pages", &P::num_pages}, std::pair{"max_kv_len", &P::max_kv_len},
        std::pair{"num_heads", &P::num_heads}, std::pair{"num_kv_heads", &P::num_kv_heads},
        std::pair{"head_dim", &P::head_dim},   std::pair{"page_size", &P::page_size},
        std::pair{"window", &P::window},       std::pair{"dtype", &P::dtype}};
  }
};

struct DecodeAttentionConfig {
  std::string kernel = "mma";  // "mma", or "reference": the formula with plain loops
  int warps = 4;
  int tokens = 16;        // cache positions per warp and step
  int stages = 3;         // steps in flight per warp
  int blocks_per_sm = 2;  // register bound, and what the choice of splits fills
  int splits = 0;         // blocks per (sequence, KV head); 0 = as many as fill the GPU once
  bool pdl = true;
  static constexpr auto fields() {
    using C = DecodeAttentionConfig;
    return std::tuple{std::pair{"kernel", &C::kernel},
                      std::pair{"warps", &C::warps},
                      std::pair{"tokens", &C::tokens},
                      std::pair{"stages", &C::stages},
                      std::pair{"blocks_per_sm", &C::blocks_per_sm},
                      std::pair{"splits", &C::splits},
                      std::pair{"pdl", &C::pdl}};
  }
  bool operator==(const DecodeAttentionConfig&) const = default;
};

class DecodeAttentionFamily : public Family {
 public:
  std::string_view name() const override { return "decode_attention"; }
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
