#pragma once
#include <tuple>

#include "templates/family.h"
#include "templates/params.h"

namespace quern {

/// y[t, :] = table[ids[t], :]; zero where ids[t] is not in [0, vocab_size). num_tokens and
/// vocab_size vary by request; the rest is compile-time.
struct EmbeddingProblem {
  int num_tokens = 1, vocab_size = 1, hidden_size = 1;
  DType dtype = DType::bf16;      // of the table: bf16, f16 or f32
  DType out_dtype = DType::bf16;  // of y: dtype or f32

  static constexpr auto fields() {
    using P = EmbeddingProblem;
    return std::tuple{std::pair{"num_tokens", &P::num_tokens},
                      std::pair{"vocab_size", &P::vocab_size},
                      std::pair{"hidden_size", &P::hidden_size}, std::pair{"dtype", &P::dtype},
                      std::pair{"out_dtype", &P::out_dtype}};
  }
};

struct EmbeddingConfig {
  int threads = 128;
  int vector_bytes = 16;     // of the table, per access
  int tokens_per_block = 1;  // rows

  static constexpr auto fields() {
    using C = EmbeddingConfig;
    return std::tuple{std::pair{"threads", &C::threads},
                      std::pair{"vector_bytes", &C::vector_bytes},
                      std::pair{"tokens_per_block", &C::tokens_per_block}};
  }
  bool operator==(const EmbeddingConfig&) const = default;
};

/// Family "embedding": operands ids[num_tokens] i32, table[vocab_size, hidden_size],
/// y[num_tokens, hidden_size]. The result is exact.
class EmbeddingFamily final : public Family {
 public:
  std::string_view name() const override { return "embedding"; }
  std::vector<std::string> dynamic_fields() const override { return {"num_tokens", "vocab_size"}; }
  std::vector<Tunable> space(const Params& problem) const override;
  RankedSpace ranked_space(const Params& problem, const Arch& arch) const override;
  Params default_config(const Params& problem, const Arch& arch) const override;
  double estimate_us(const Params& problem, const Params& config, const Arch& arch) const override;
  std::optional<std::string> unsupported(const Params& problem, const Arch& arch) const override;
  std::optional<std::string> reject_reason(const Params& problem, const Params& config,
                                           const Arch& arch) const override;
  Params reference_config(const Params& problem) const override;
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
