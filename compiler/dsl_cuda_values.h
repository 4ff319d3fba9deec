#pragma once
#include <vector>

#include "compiler/dsl_cuda_helpers.h"
#include "compiler/dsl_cuda_text.h"
#include "compiler/dsl_tree.h"

namespace quern::dsl {

/// Arithmetic, casts and the like as C++ text, from the texts and dtypes of the arguments. i32
/// wraps around and divides as the language says; floats are left to C++.
Code operation(Op op, DType to, const std::vector<Code>& args, const std::vector<DType>& dtypes,
               Helpers& helpers);

/// The device function of a reduction of the user's: "combine_product".
std::string combine_function(const Combine& combine, Helpers& helpers);

}  // namespace quern::dsl
