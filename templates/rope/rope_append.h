#pragma once
#include "templates/family.h"

namespace quern {

/// Rotates q and k of freshly projected tokens and appends k and v to the paged cache. Operands:
///   qkv          [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]: q, then k, then v heads
///   rope_table   f32 [max_positions, head_dim / 2, 2]: cos, sin
///   positions    i32 [num_tokens]
///   sequence     i32 [num_tokens]: row of block_table; -1 marks a padding token, which is skipped
///   block_table  i32 [batch, max_blocks]: page of each page_size tokens of a sequence
///   k_cache, v_cache (inout)  [num_pages, num_kv_heads, page_size, head_dim]
///   q_out (out)  [num_tokens, num_heads * head_dim]
///   qkv_bias     [(num_heads + 2 * num_kv_heads) * head_dim], of dtype; only where `bias` is set
/// Pairs are (i, i + head_dim / 2).
struct RopeAppendProblem {
  int num_tokens = 1;        // dynamic
  int batch = 1;             // dynamic
  int max_blocks = 16;       // dynamic
  int num_pages = 16;        // dynamic
  int max_positions = 1024;  // dynamic
  int num_heads = 32, num_kv_heads = 8, head_dim = 128, page_size = 64;
  DType dtype = DType::bf16;      // of q_out and the cache: bf16 or f16
  DType qkv_dtype = DType::bf16;  // of qkv: dtype, or f32 so that q and k are rounded once
  bool bias = false;              // of the projections, added before the rotation
  static constexpr auto fields() {
    using P = RopeAppendProblem;
    return std::tuple{
        std::pair{"num_tokens", &P::num_tokens},       std::pair{"batch", &P::batch},
        std::pair{"max_blocks", &P::max_blocks},       std::pair{"num_pages", &P::num_pages},
        std::pair{"max_positions", &P::max_positions}, std::pair{"num_heads", &P::num_heads},
        std::pair{"num_kv_heads", &P::num_kv_heads},   std::pair{"head_dim", &P::head_dim},
        std::pair{"page_size", &P::page_size},         std::pair{"dtype", &P::dtype},
        std::pair{"qkv_dtype", &P::qkv_dtype},         std::pair{"bias", &P::bias}};
  }
};

struct RopeAppendConfig {
  int threads = 128;
  int vector = 8;  // elements per access
  int unroll = 1;  // pairs of accesses per thread
  bool pdl = true;
  static constexpr auto fields() {
    using C = RopeAppendConfig;
    return std::tuple{std::pair{"threads", &C::threads}, std::pair{"vector", &C::vector},
                      std::pair{"unroll", &C::unroll}, std::pair{"pdl", &C::pdl}};
  }
  bool operator==(const RopeAppendConfig&) const = default;
};

class RopeAppendFamily : public Family {
 public:
  std::string_view name() const override { return "rope_append"; }
  std::vector<std::string> dynamic_fields() const override;
  std::vector<Tunable> space(const Params& problem) const override;
  RankedSpace ranked_space(const Params& problem, const Arch& arch) const override;
  Params default_config(const Params& problem, const Arch& arch) const override;
  double estimate_us(const Params& problem, const Params& config, const Arch& arch) const override;
  std::optional<std::string> unsupported(const Params& problem, const Arch& arch) const override;
  std::optional<std::string> reject_reason(const Params& problem, const Params& config,
                                           const Arch& arch) const override;
  Params reference_config(const Params&) const override { return nullptr; }
  void cpu_reference(const Params& problem, std::span<HostTensor> operands) const override;
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
