#pragma once
#include <string>
#include <vector>

#include "model/config.h"
#include "model/weight_layout.h"
#include "runtime/base/dtype.h"

namespace quern {

/// The row kernel between a product that adds to the residual stream (o, down) and the product that
/// reads the sum, normalised (gate_up, the next layer's qkv).
enum class NormKernel {
  adds,   // adds what the product has stored to the stream and normalises the sum
  alone,  // normalises: the product adds to the stream itself
  none,   // there is none: the next product normalises what it reads
};

/// Which row kernels of a step are computed by its products instead (families fused_gemm and, for
/// codes, fused_gemm_wna16). A layer whose weights do not allow it keeps its row kernels.
struct StepFusion {
  bool swiglu = false;                       // by gate_up
  NormKernel post_norm = NormKernel::adds;   // o to gate_up; none takes swiglu too
  NormKernel input_norm = NormKernel::adds;  // down to qkv
  bool operator==(const StepFusion&) const = default;
};

/// "gate_up computes SwiGLU; o adds to the residual stream; ..." or "nothing".
std::string to_text(const StepFusion& fusion);

/// What `fusion` comes to for steps of so many tokens: what no kernel of the families serves is
/// left to row kernels.
StepFusion served(StepFusion fusion, int num_tokens);

/// Whether products of one input are one that can normalise it: of bf16 elements, or of codes in
/// the order of its columns.
bool can_normalise(const std::vector<LinearWeight>& parts, DType dtype);

/// The fusions that are worth a measurement for steps of so many tokens, none at all first. SwiGLU
/// takes a gate_up whose rows are interleaved, and normalising a product that can, in one layer at
/// least. From 129 tokens on there is none but the first.
std::vector<StepFusion> step_fusions(DType dtype, const ModelAddresses& layout, int num_tokens);

}  // namespace quern
