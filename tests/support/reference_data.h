#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "model/backend.h"

namespace quern::test {

/// Logits of a reference implementation and its greedy continuation of the same ids.
struct Expected {
  std::vector<std::int32_t> input_ids;
  std::vector<float> logits;             // [input_ids.size(), vocab_size]
  std::vector<std::int32_t> greedy_ids;  // may be empty
  std::vector<float> greedy_margins;     // top-1 minus top-2 logit at each step
};
Expected load_expected(const std::filesystem::path& safetensors);

/// How far logits are from the reference: both relative, to the reference's norm and to its largest
/// magnitude.
struct LogitError {
  double norm_wise = 0;  // |a - b|_2 / |b|_2
  double max_wise = 0;   // max |a - b| / max |b|
};
LogitError logit_error(std::span<const float> actual, std::span<const float> expected);

/// Greedy continuation by teacher forcing: feeds the reference's own tokens, so that one tie does
/// not hide what follows. Returns a sentence for the first step whose choice differs although the
/// reference's margin there is above `margin`; empty if there is none.
std::string greedy_mismatch(Backend& backend, std::span<const std::int32_t> prompt,
                            std::span<const std::int32_t> greedy_ids,
                            std::span<const float> margins, float margin = 0.05f);

}  // namespace quern::test
