#pragma once
#include "templates/family.h"

namespace quern {

/// Chooses the next token of each sequence and advances its counters. Operands:
///   logits    f32 [batch, vocab_size]
///   params    i32 [batch, 8]: SamplingRequest of templates/sampling/sampling_args.h
///   token     i32 [batch] (out): the choice, which is the next step's input
///   position  i32 [batch] (inout): += 1
///   kv_len    i32 [batch] (inout): += 1
///   log       i32 [batch, log_capacity] (inout): log[b][new position] = choice where it fits; may
///             be pinned host memory
/// Semantics are spelled out in sampling.cuh.
struct SamplingProblem {
  int batch = 1;  // dynamic
  int vocab_size = 128256;
  int log_capacity = 1024;  // dynamic
  static constexpr auto fields() {
    using P = SamplingProblem;
    return std::tuple{std::pair{"batch", &P::batch}, std::pair{"vocab_size", &P::vocab_size},
                      std::pair{"log_capacity", &P::log_capacity}};
  }
};

struct SamplingConfig {
  int threads = 512;
  int blocks = 32;  // per sequence
  bool pdl = true;
  static constexpr auto fields() {
    using C = SamplingConfig;
    return std::tuple{std::pair{"threads", &C::threads}, std::pair{"blocks", &C::blocks},
                      std::pair{"pdl", &C::pdl}};
  }
  bool operator==(const SamplingConfig&) const = default;
};

class SamplingFamily : public Family {
 public:
  std::string_view name() const override { return "sampling"; }
  std::vector<std::string> dynamic_fields() const override;
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
