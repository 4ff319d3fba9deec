#include "compiler/dsl_cuda_values.h"

namespace quern::dsl {
namespace {

bool is_integer(DType dtype) {
  return dtype == DType::i32 || dtype == DType::i8 || dtype == DType::u8 || dtype == DType::i4;
}

Code cast(const Code& value, DType from, DType to, Helpers& helpers) {
  if (from == to) return value;
  std::string text = value.text;
  if (from != DType::f32 && !(is_integer(from) && is_integer(to))) {
    helpers.need(is_integer(from) ? "to_f32 int" : fmt::format("to_f32 {}", quern::name(from)));
    text = fmt::format("to_f32({})", text);
  }
  if (to == DType::f32) return {text};
  helpers.need(fmt::format("to_{}", quern::name(to)));
  return {fmt::format("to_{}({})", quern::name(to), text)};
}

}  // namespace

Code operation(Op op, DType to, const std::vector<Code>& args, const std::vector<DType>& dtypes,
               Helpers& helpers) {
  const bool integer = dtypes.at(0) == DType::i32;
  const auto call = [&](const char* function) {
    std::string text = function + ("(" + args[0].text);
    for (std::size_t i = 1; i < args.size(); ++i) text += ", " + args[i].text;
    return Code{text + ")"};
  };
  const auto helper = [&](const char* function) {
    helpers.need(function);
    return call(function);
  };
  const auto infix = [&](const char* symbol, Code::Level level, Code::Level left,
                         Code::Level right) {
    return Code{fmt::format("{} {} {}", args[0].at_least(left), symbol, args[1].at_least(right)),
                level};
  };
  const auto compare = [&](const char* symbol) {
    return infix(symbol, Code::comparison, Code::sum, Code::sum);
  };
  const auto equality = [&](const char* symbol) {
    return infix(symbol, Code::equality, Code::sum, Code::sum);
  };
  switch (op) {
    case Op::cast:
      return cast(args[0], dtypes[0], to, helpers);
    case Op::negate:
      return integer ? helper("negate") : Code{"-" + args[0].at_least(Code::primary), Code::unary};
    case Op::abs:
      return integer ? helper("magnitude") : call("fabsf");
    case Op::sqrt:
      return call("sqrtf");
    case Op::rsqrt:
      return call("rsqrtf");
    case Op::exp:
      return call("expf");
    case Op::exp2:
      return call("exp2f");
    case Op::log:
      return call("logf");
    case Op::log2:
      return call("log2f");
    case Op::tanh:
      return call("tanhf");
    case Op::erf:
      return call("erff");
    case Op::sin:
      return call("sinf");
    case Op::cos:
      return call("cosf");
    case Op::sigmoid:
      return helper("sigmoid");
    case Op::floor:
      return call("floorf");
    case Op::ceil:
      return call("ceilf");
    case Op::round:
      return call("rintf");
    case Op::trunc:
      return call("truncf");
    case Op::power:
      return call("powf");
    case Op::add:
      return integer ? helper("add") : infix("+", Code::sum, Code::sum, Code::product);
    case Op::subtract:
      return integer ? helper("subtract") : infix("-", Code::sum, Code::sum, Code::product);
    case Op::multiply:
      return integer ? helper("multiply") : infix("*", Code::product, Code::product, Code::unary);
    case Op::divide:
      return helper(integer ? "divide" : "quotient");
    case Op::modulo:
      return helper("remainder");
    case Op::min:
      return call(integer ? "min" : "fminf");
    case Op::max:
      return call(integer ? "max" : "fmaxf");
    case Op::less:
      return compare("<");
    case Op::less_equal:
      return compare("<=");
    case Op::greater:
      return compare(">");
    case Op::greater_equal:
      return compare(">=");
    case Op::equal:
      return equality("==");
    case Op::not_equal:
      return equality("!=");
    case Op::both:
      return infix("&&", Code::both, Code::both, Code::equality);
    case Op::either:
      // Parentheses around &&: compilers and readers ask for them.
      return infix("||", Code::either, args[0].level == Code::both ? Code::primary : Code::either,
                   args[1].level == Code::both ? Code::primary : Code::equality);
    case Op::invert:
      return {"!" + args[0].at_least(Code::primary), Code::unary};
    case Op::select:
      return {fmt::format("{} ? {} : {}", args[0].at_least(Code::either),
                          args[1].at_least(Code::either), args[2].at_least(Code::either)),
              Code::ternary};
    default:
      return args[0];
  }
}

std::string combine_function(const Combine& combine, Helpers& helpers) {
  std::vector<int> uses(combine.nodes.size(), 0);
  for (const Node& node : combine.nodes)
    for (const int arg : node.args)
      if (arg >= 0) ++uses[static_cast<std::size_t>(arg)];
  std::vector<Code> values;
  std::string locals;
  for (std::size_t n = 0; n < combine.nodes.size(); ++n) {
    const Node& node = combine.nodes[n];
    if (node.op == Op::parameter) {
      values.push_back({node.index == 0 ? "a" : "b"});
      continue;
    }
    if (node.op == Op::constant) {
      values.push_back({node.type.dtype == DType::i32
                            ? literal(static_cast<std::int32_t>(node.value))
                            : literal(static_cast<float>(node.value))});
      continue;
    }
    std::vector<Code> args;
    std::vector<DType> dtypes;
    for (const int arg : node.args)
      if (arg >= 0) {
        args.push_back(values[static_cast<std::size_t>(arg)]);
        dtypes.push_back(combine.nodes[static_cast<std::size_t>(arg)].type.dtype);
      }
    values.push_back(operation(node.op, node.type.dtype, args, dtypes, helpers));
    if (uses[n] > 1) {
      helpers.need_type(node.type.dtype);
      locals +=
          fmt::format("  const {} t{} = {};\n", type_name(node.type.dtype), n, values.back().text);
      values.back() = {fmt::format("t{}", n)};
    }
  }
  return fmt::format(
      "__device__ inline float combine_{}(float a, float b) {{\n{}  return {};\n}}\n\n",
      combine.name, locals, values[static_cast<std::size_t>(combine.result)].text);
}

}  // namespace quern::dsl
