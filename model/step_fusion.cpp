#include "model/step_fusion.h"

#include <algorithm>

#include "autotune/problem.h"

namespace quern {
namespace {

/// A product that normalises does so in every block anew, which is little beside its weights while
/// the tokens are few.
constexpr int kMaxNormalisedTokens = 4;

/// Beyond, products are bound by arithmetic: clocks fall with the power that they draw, by more
/// than a row kernel takes, so that times measured one after another say nothing of which way is
/// faster; and a row kernel of a step finds in L2 what one that is timed alone reads from memory.
/// On an H200 an 8B prefill of 512 tokens took 11.5 ms with nothing fused and 12.2 the way that
/// sums of times had it save 0.15, one of 2048 50.7 and 53.2.
constexpr int kMaxFusedTokens = 128;

bool can_normalise(int num_tokens) { return bucket(num_tokens) <= kMaxNormalisedTokens; }

}  // namespace

std::string to_text(const StepFusion& fusion) {
  std::vector<std::string> parts;
  if (fusion.swiglu) parts.push_back("gate_up computes SwiGLU");
  const auto add = [&](NormKernel kernel, const std::string& first, const std::string& second) {
    if (kernel != NormKernel::adds) parts.push_back(first + " adds to the residual stream");
    if (kernel == NormKernel::none) parts.push_back(second + " normalises its input");
  };
  add(fusion.post_norm, "o", "gate_up");
  add(fusion.input_norm, "down", "qkv");
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : "; ") + part;
  return out.empty() ? "nothing" : out;
}

bool can_normalise(const std::vector<LinearWeight>& parts, DType dtype) {
  if (parts.size() != 1) return false;
  return parts[0].quantised() ? !parts[0].reordered : dtype == DType::bf16;
}

StepFusion served(StepFusion fusion, int num_tokens) {
  const bool normalises = can_normalise(num_tokens);
  if (fusion.post_norm == NormKernel::none && !(normalises && fusion.swiglu))
    fusion.post_norm = NormKernel::alone;
  if (fusion.input_norm == NormKernel::none && !normalises) fusion.input_norm = NormKernel::alone;
  return fusion;
}

std::vector<StepFusion> step_fusions(DType dtype, const ModelAddresses& layout, int num_tokens) {
  if (num_tokens > kMaxFusedTokens) return {StepFusion{}};
  const auto any = [&](auto property) { return std::ranges::any_of(layout.layers, property); };
  /// `some`: whether some product that reads the sum can normalise it.
  const auto kernels = [&](bool some) {
    std::vector<NormKernel> out{NormKernel::adds, NormKernel::alone};
    if (some && can_normalise(num_tokens)) out.push_back(NormKernel::none);
    return out;
  };
  std::vector<StepFusion> out;
  const bool swiglu = any([](const LayerAddresses& l) { return l.gate_up.front().interleaved; });
  for (const NormKernel input_norm :
       kernels(any([&](const LayerAddresses& l) { return can_normalise(l.qkv, dtype); })))
    for (const NormKernel post_norm : kernels(any([&](const LayerAddresses& l) {
           return can_normalise(l.gate_up, dtype) && l.gate_up.front().interleaved;
         })))
      for (const bool with_swiglu : {false, true})
        if (const StepFusion fusion{with_swiglu, post_norm, input_norm};
            (swiglu || !with_swiglu) && served(fusion, num_tokens) == fusion)
          out.push_back(fusion);
  return out;
}

}  // namespace quern
