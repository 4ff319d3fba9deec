#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/json_reader.h"

namespace quern {

/// Who wrote the codes, which decides how they are packed; see model/quantised_linear.h.
enum class QuantMethod {
  awq,   // Lin et al. 2023, arXiv:2306.00978; the "gemm" packing
  gptq,  // Frantar et al. 2022, arXiv:2210.17323
};

/// "quantization_config" of a checkpoint whose projections are codes of a few bits with a scale and
/// a zero point per output and group of inputs: w = (code - zero point) * scale.
struct Quantization {
  QuantMethod method = QuantMethod::awq;
  int bits = 4;                   // of a code: 4, or 8 for GPTQ
  std::int64_t group_size = 128;  // inputs that share a scale: 32, 64 or 128; -1: all of them
  bool zero_points = true;        // false: symmetric, every zero point is 2^(bits - 1)
  bool act_order = false;         // "desc_act": which group an input is in stands in g_idx
  bool zeros_minus_one = false;   // GPTQ's first checkpoint format stores zero points minus one
  bool lm_head = false;           // whether the output projection is quantised too
  /// A module whose name contains one of these is stored as it was.
  std::vector<std::string> modules_to_not_convert;
  /// GPTQ's "modules_in_block_to_quantize": if there are any, only modules whose names end in one
  /// of them are quantised.
  std::vector<std::string> modules_to_convert;

  /// Whether a linear module ("model.layers.0.self_attn.q_proj", "lm_head") is stored as codes.
  bool applies_to(std::string_view module) const;
  /// Inputs of a group where a projection has `in_features` of them.
  std::int64_t inputs_per_group(std::int64_t in_features) const {
    return group_size > 0 ? group_size : in_features;
  }
  /// "AWQ, 4 bits, group 128".
  std::string text() const;
};

/// Throws InputError, one sentence naming the key, for methods, widths, group sizes and packings
/// that are not supported.
Quantization parse_quantization(const JsonReader& in);

}  // namespace quern
