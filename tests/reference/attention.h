#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "templates/attention/decode_attention.h"
#include "templates/attention/prefill_attention.h"

namespace quern::test {

/// Causal attention over a paged cache, from its formula in double precision, filling the output.
/// Operands as DecodeAttentionFamily has them. Cache operands may be given as i32 bit patterns.
void decode_attention_oracle(const Params& problem, std::span<HostTensor> operands);
/// Operands as PrefillAttentionFamily has them.
void prefill_attention_oracle(const Params& problem, std::span<HostTensor> operands);

/// The family on operands made to catch reads out of bounds: the given lengths, and a cache in
/// which every slot that no query sees holds NaN, infinity or a huge value. The cache operands are
/// i32 bit patterns.
class DecodeTrial : public DecodeAttentionFamily {
 public:
  explicit DecodeTrial(std::vector<std::int32_t> kv_len) : kv_len_(std::move(kv_len)) {}
  /// A problem of these dimensions with room for the lengths.
  Params problem(int num_heads, int num_kv_heads, int head_dim, int page_size, int window,
                 DType dtype) const;
  std::vector<OperandSpec> operands(const Params& problem) const override;

 private:
  std::vector<std::int32_t> kv_len_;
};

/// The same for prefill: sequence s has query_len[s] new tokens after past[s] older ones.
class PrefillTrial : public PrefillAttentionFamily {
 public:
  PrefillTrial(std::vector<std::int32_t> query_len, std::vector<std::int32_t> past)
      : query_len_(std::move(query_len)), past_(std::move(past)) {}
  Params problem(int num_heads, int num_kv_heads, int head_dim, int page_size, int window,
                 DType dtype) const;
  std::vector<OperandSpec> operands(const Params& problem) const override;

 private:
  std::vector<std::int32_t> query_len_, past_;
};

}  // namespace quern::test
