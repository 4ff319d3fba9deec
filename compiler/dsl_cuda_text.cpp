#include "compiler/dsl_cuda_text.h"

#include <cctype>
#include <cmath>
#include <limits>

namespace quern::dsl {
namespace {

/// Words that a variable or member must not be called: keywords, macros that compilers predefine,
/// and what the generated code itself refers to.
const std::set<std::string, std::less<>>& reserved_words() {
  static const std::set<std::string, std::less<>> words = {
      // C++ and its compilers.
      "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break",
      "case", "catch", "char", "char8_t", "char16_t", "char32_t", "class", "co_await", "co_return",
      "co_yield", "compl", "concept", "const", "const_cast", "consteval", "constexpr", "constinit",
      "continue", "decltype", "default", "delete", "do", "double", "dynamic_cast", "else", "enum",
      "explicit", "export", "extern", "false", "float", "for", "friend", "goto", "if", "inline",
      "int", "long", "mutable", "namespace", "new", "noexcept", "not", "not_eq", "nullptr",
      "operator", "or", "or_eq", "private", "protected", "public", "register", "reinterpret_cast",
      "requires", "return", "short", "signed", "sizeof", "static", "static_assert", "static_cast",
      "struct", "switch", "template", "this", "thread_local", "throw", "true", "try", "typedef",
      "typeid", "typename", "typeof", "union", "unsigned", "using", "virtual", "void", "volatile",
      "wchar_t", "while", "xor", "xor_eq", "restrict", "linux", "unix", "i386", "NULL", "NAN",
      "INFINITY",
      // Types and variables of the kernel.
      "Args", "Vector", "Indexed", "args", "bf16", "f16", "e4m3", "e5m2", "blockIdx", "gridDim",
      "threadIdx", "row", "col", "lane", "item", "element", "step", "segment", "first_row",
      "rows_apart", "load_row", "turn", "at", "chunk", "i", "shared", "shared_indexed", "staged",
      "vectors", "num_rows", "aligned", "count", "N", "T", "size_t",
      // Functions of the kernel and of CUDA.
      "load", "quotient", "store", "prefetch", "stage", "load_i4", "unpack_i4", "pack_i4",
      "load_up_to", "store_up_to", "to_f32", "to_f16", "to_bf16", "to_i32", "to_i8", "to_u8",
      "to_i4", "to_e4m3", "to_e5m2", "add", "subtract", "multiply", "divide", "remainder", "negate",
      "magnitude", "within", "larger", "smaller", "shuffle", "row_barrier", "segment_barrier",
      "cluster_arrive", "cluster_wait", "send", "sigmoid", "min", "max", "expf", "exp2f", "logf",
      "log2f", "sqrtf", "rsqrtf", "tanhf", "erff", "sinf", "cosf", "powf", "fabsf", "fminf",
      "fmaxf", "floorf", "ceilf", "rintf", "truncf", "exp", "exp2", "log", "log2", "sqrt", "rsqrt",
      "tanh", "erf", "sin", "cos", "pow", "fabs", "abs", "floor", "ceil", "round", "rint", "trunc"};
  return words;
}

bool is_reserved(const std::string& name) {
  // Reductions are called row_sum, warp_max, combine_product and so on.
  for (const char* prefix : {"row_", "segment_", "warp_", "block_", "combine_", "__"})
    if (name.rfind(prefix, 0) == 0) return true;
  return reserved_words().count(name) > 0;
}

}  // namespace

std::string literal(float value) {
  if (std::isinf(value))
    return value > 0 ? "__int_as_float(0x7f800000)" : "-__int_as_float(0x7f800000)";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text + "f";
}

std::string literal(std::int32_t value) {
  if (value == std::numeric_limits<std::int32_t>::min()) return "(-2147483647 - 1)";
  return std::to_string(value);
}

std::string type_name(DType dtype) {
  switch (dtype) {
    case DType::f16:
    case DType::bf16:
    case DType::e4m3:
    case DType::e5m2:
      return std::string(name(dtype));
    case DType::i32:
      return "int";
    case DType::i8:
    case DType::i4:
      return "signed char";
    case DType::u8:
      return "unsigned char";
    case DType::boolean:
      return "bool";
    default:
      return "float";
  }
}

bool mentions(std::string_view text, std::string_view name) {
  const auto is_word = [&](std::size_t i) {
    return i < text.size() && (std::isalnum(static_cast<unsigned char>(text[i])) || text[i] == '_');
  };
  for (std::size_t i = text.find(name); i != text.npos; i = text.find(name, i + 1))
    if (!(i > 0 && (is_word(i - 1) || text[i - 1] == '.')) && !is_word(i + name.size()))
      return true;
  return false;
}

std::string member_name(const std::string& name) {
  return reserved_words().count(name) ? name + "_" : name;
}

std::string Names::take(const std::string& wanted) {
  std::string name = is_reserved(wanted) ? wanted + "_" : wanted;
  for (int count = 2; !taken_.insert(name).second; ++count)
    name = fmt::format("{}_{}", wanted, count);
  return name;
}

void Text::put(const std::string& text) {
  text_ += std::string(static_cast<std::size_t>(indent_) * 2, ' ') + text + "\n";
}

void Text::open(const std::string& text) {
  put(text.empty() ? "{" : text + " {");
  ++indent_;
}

void Text::close(const std::string& end) {
  --indent_;
  put(end);
}

void Text::otherwise() {
  --indent_;
  open("} else");
}

void Text::insert(std::size_t mark, const std::string& text) {
  text_.insert(mark, std::string(static_cast<std::size_t>(indent_) * 2, ' ') + text + "\n");
}

}  // namespace quern::dsl
