#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/dsl_tree.h"

/// The functions, reductions and operators of the kernel language.
namespace quern::dsl {

/// What a function takes; all arguments have one type, which is also that of the result except for
/// comparisons and select.
enum class Domain {
  floating,   // f32
  number,     // f32 or i32
  condition,  // boolean
  choice,     // select: a condition and two values of any one dtype
};

struct Function {
  std::string_view name;
  Op op;
  std::size_t num_args;
  Domain domain;
};

/// Nothing of this name: null.
const Function* find_function(std::string_view name);
const Function* find_operator(std::string_view symbol, bool unary);
const Function* find_reduction(std::string_view name);

std::vector<std::string> function_names();
std::vector<std::string> reduction_names();
/// Dtypes that operands may have, as they are spelled.
std::vector<std::string> operand_dtype_names();

/// True for every word that stands for something by itself, which no operand may be called.
bool is_builtin(std::string_view name);

inline bool is_capitalised(std::string_view name) { return name[0] >= 'A' && name[0] <= 'Z'; }

}  // namespace quern::dsl
