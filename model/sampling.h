#pragma once
#include <array>
#include <cstdint>
#include <span>

namespace quern {

/// How the next token is chosen. The defaults choose the most probable one.
struct SamplingParams {
  float temperature = 0;  // 0: the most probable token, and nothing below matters
  int top_k = 0;          // 0: all tokens
  float top_p = 1;        // in (0, 1]; 1: all tokens
  float min_p = 0;        // in [0, 1]; 0: all tokens
  std::uint64_t seed = 0;
};

/// Throws InputError, naming the option, for values without meaning.
void check_sampling(const SamplingParams& params);

/// Chooses a token. The same on every device, up to the rounding of exp and log:
///
/// temperature 0: the token of the largest logit, the lowest id among equals. Otherwise, with
/// s = logit / temperature in f32:
///  1. top_k keeps the tokens with s no less than the k-th largest s (ties are kept);
///  2. top_p, on the softmax over what top_k kept, keeps the smallest set of most probable tokens
///     whose mass reaches top_p, and the ties of its least member;
///  3. min_p keeps the tokens at least min_p times as probable as the most probable one;
///  4. the kept token of the largest s + g wins, the lowest id among equals, where
///     g = -log(-log(u)) (the Gumbel-max trick: this samples from the softmax over what is kept).
/// u = gumbel_uniform(seed, position, id), where `position` is how many tokens precede the one that
/// is being chosen. NaN logits never win, unless all are NaN: then token 0 does.
std::int32_t sample(std::span<const float> logits, const SamplingParams& params,
                    std::uint32_t position);

/// Philox4x32-10, the counter-based generator of Salmon et al. 2011 (SC '11, "Parallel random
/// numbers: as easy as 1, 2, 3").
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key);

/// In (0, 1): with x = philox4x32({token, position, 0, 0}, {seed's low half, seed's high half})[0],
/// ((x >> 8) + 0.5) * 2^-24. A double, since the largest would round to 1 as an f32.
double gumbel_uniform(std::uint64_t seed, std::uint32_t position, std::uint32_t token);

}  // namespace quern
