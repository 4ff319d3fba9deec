#include "compiler/dsl_builtins.h"

namespace quern::dsl {
namespace {

constexpr Function kFunctions[] = {
    {"abs", Op::abs, 1, Domain::number},       {"sqrt", Op::sqrt, 1, Domain::floating},
    {"rsqrt", Op::rsqrt, 1, Domain::floating}, {"exp", Op::exp, 1, Domain::floating},
    {"exp2", Op::exp2, 1, Domain::floating},   {"log", Op::log, 1, Domain::floating},
    {"log2", Op::log2, 1, Domain::floating},   {"tanh", Op::tanh, 1, Domain::floating},
    {"erf", Op::erf, 1, Domain::floating},     {"sin", Op::sin, 1, Domain::floating},
    {"cos", Op::cos, 1, Domain::floating},     {"sigmoid", Op::sigmoid, 1, Domain::floating},
    {"floor", Op::floor, 1, Domain::floating}, {"ceil", Op::ceil, 1, Domain::floating},
    {"round", Op::round, 1, Domain::floating}, {"trunc", Op::trunc, 1, Domain::floating},
    {"pow", Op::power, 2, Domain::floating},   {"min", Op::min, 2, Domain::number},
    {"max", Op::max, 2, Domain::number},       {"select", Op::select, 3, Domain::choice},
};

constexpr Function kReductions[] = {
    {"sum", Op::reduce_sum, 1, Domain::floating},
    {"mean", Op::reduce_mean, 1, Domain::floating},
    {"min", Op::reduce_min, 1, Domain::floating},
    {"max", Op::reduce_max, 1, Domain::floating},
    {"argmin", Op::reduce_argmin, 1, Domain::floating},
    {"argmax", Op::reduce_argmax, 1, Domain::floating},
};

constexpr Function kBinary[] = {
    {"+", Op::add, 2, Domain::number},
    {"-", Op::subtract, 2, Domain::number},
    {"*", Op::multiply, 2, Domain::number},
    {"/", Op::divide, 2, Domain::number},
    {"%", Op::modulo, 2, Domain::number},
    {"<", Op::less, 2, Domain::number},
    {"<=", Op::less_equal, 2, Domain::number},
    {">", Op::greater, 2, Domain::number},
    {">=", Op::greater_equal, 2, Domain::number},
    {"==", Op::equal, 2, Domain::number},
    {"!=", Op::not_equal, 2, Domain::number},
    {"&&", Op::both, 2, Domain::condition},
    {"||", Op::either, 2, Domain::condition},
};
constexpr Function kUnary[] = {
    {"-", Op::negate, 1, Domain::number},
    {"!", Op::invert, 1, Domain::condition},
};

constexpr DType kOperandDTypes[] = {DType::f32, DType::f16,  DType::bf16, DType::i32, DType::i8,
                                    DType::u8,  DType::e4m3, DType::e5m2, DType::i4};

template <std::size_t N>
const Function* find(const Function (&table)[N], std::string_view name) {
  for (const Function& function : table)
    if (function.name == name) return &function;
  return nullptr;
}

template <std::size_t N>
std::vector<std::string> names(const Function (&table)[N]) {
  std::vector<std::string> out;
  for (const Function& function : table) out.emplace_back(function.name);
  return out;
}

}  // namespace

const Function* find_function(std::string_view name) { return find(kFunctions, name); }
const Function* find_operator(std::string_view symbol, bool unary) {
  return unary ? find(kUnary, symbol) : find(kBinary, symbol);
}
const Function* find_reduction(std::string_view name) { return find(kReductions, name); }

std::vector<std::string> function_names() {
  std::vector<std::string> out = names(kFunctions);
  out.insert(out.end(), {"index", "extent"});
  return out;
}
std::vector<std::string> reduction_names() { return names(kReductions); }

std::vector<std::string> operand_dtype_names() {
  std::vector<std::string> out;
  for (const DType dtype : kOperandDTypes) out.emplace_back(quern::name(dtype));
  return out;
}

bool is_operand_dtype(DType dtype) {
  for (const DType known : kOperandDTypes)
    if (known == dtype) return true;
  return false;
}

bool is_builtin(std::string_view name) {
  return find_function(name) || find_reduction(name) || name == "index" || name == "extent" ||
         name == "inf";
}

}  // namespace quern::dsl
