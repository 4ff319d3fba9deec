#pragma once
#include <functional>
#include <optional>
#include <string>

#include "autotune/kernel_library.h"
#include "model/forward.h"

namespace quern {

/// Microseconds of one launch of a problem (dynamic fields rounded up), or nothing.
using ProblemTime =
    std::function<std::optional<double>(const std::string& family, const Params& problem)>;

/// The way of fusing that a step takes, and what it is expected to save.
struct FusionChoice {
  StepFusion fusion;
  double saved_us = 0;    // of a step, against fusing nothing
  bool measured = false;  // else by the families' models
};

/// " | saves 61.2 us of a step, measured", or nothing where nothing is saved.
std::string saving_text(double saved_us, bool measured);
/// "gate_up computes SwiGLU | saves 61.2 us of a step, measured".
std::string to_text(const FusionChoice& choice);

/// The fastest of step_fusions(), by the sums of their launches' times and of what lies between
/// them. Two ways are compared by the launches that they do not share: by measured times where both
/// have them; one that has them all goes before one that lacks some, so that what a tune did not
/// get to runs nothing untuned; and if neither has them, `estimated` decides, since a model's first
/// run knows no more.
FusionChoice choose_fusion(const ModelConfig& config, DType dtype, const ModelAddresses& layout,
                           const StepShape& shape, const ProblemTime& measured,
                           const ProblemTime& estimated);
/// The same by what `kernels` has records of, and the models of its families.
FusionChoice choose_fusion(KernelLibrary& kernels, const ModelConfig& config, DType dtype,
                           const ModelAddresses& layout, const StepShape& shape);

}  // namespace quern
