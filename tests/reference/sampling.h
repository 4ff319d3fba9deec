#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "templates/sampling/sampling.h"
#include "templates/sampling/sampling_args.h"

namespace quern::test {

/// Which tokens top_k, top_p and min_p keep, each decided by looking at all others.
std::vector<bool> kept_tokens(std::span<const float> logits, const SamplingRequest& params);

/// First word of Philox4x32-10 for counter {c0, c1, 0, 0}.
std::uint32_t philox_oracle(std::uint32_t key0, std::uint32_t key1, std::uint32_t c0,
                            std::uint32_t c1);

/// The token that sampling chooses at `position`.
int sampled_token(std::span<const float> logits, const SamplingRequest& params, int position);

/// Operands as SamplingFamily has them; logits may be given as i32 bit patterns.
void sampling_oracle(const Params& problem, std::span<HostTensor> operands);

/// The family on given logits, [batch, vocab_size], and one row of parameters per sequence.
class SamplingTrial : public SamplingFamily {
 public:
  SamplingTrial(std::vector<float> logits, std::vector<SamplingRequest> params)
      : logits_(std::move(logits)), params_(std::move(params)) {}
  Params problem(int log_capacity) const;
  std::vector<OperandSpec> operands(const Params& problem) const override;

 private:
  std::vector<float> logits_;
  std::vector<SamplingRequest> params_;
};

}  // namespace quern::test
