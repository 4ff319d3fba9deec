#include "tests/support/dsl_interpreter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "compiler/dsl_tree.h"

namespace quern::test {
namespace {

using dsl::AxisSet;
using dsl::Node;
using dsl::Op;
using dsl::Tree;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// A number that a value may have and how far others may be from it. Conditions are 0 or 1, and
/// unsure if their error is not 0.
struct Bounded {
  double value = 0, error = 0;
  bool exact() const { return error == 0; }
};

/// Distance of neighbouring f32 values.
double ulp(double x) {
  if (std::isnan(x) || std::isinf(x)) return 0;
  return std::max(std::fabs(x) * 0x1p-23, 0x1p-149);
}

double as_f32(double x) { return static_cast<double>(static_cast<float>(x)); }

/// Nothing is known of a value near infinity that is not exact, nor of NaN.
Bounded bounded(double value, double error) {
  if (error > 0 && !(std::fabs(value) + error < 3e38)) error = kInfinity;
  if (std::isnan(error)) error = kInfinity;
  return {value, error};
}

/// A function that only rises, or only falls, within the error: its ends are its bounds.
template <class Function>
Bounded monotone(Bounded x, double ulps, Function f) {
  const double value = as_f32(f(x.value));
  const double rounding = ulps * ulp(value);
  if (x.exact()) return bounded(value, rounding);
  const double low = f(x.value - x.error), high = f(x.value + x.error);
  return bounded(value, std::max(std::fabs(low - value), std::fabs(high - value)) + rounding);
}

Bounded compare(Bounded a, Bounded b, bool holds) {
  const double slack = a.error + b.error;
  const bool unsure = slack > 0 && !(std::fabs(a.value - b.value) > slack);
  return {holds ? 1.0 : 0.0, unsure ? 1.0 : 0.0};
}

/// Either may be taken.
Bounded choose(Bounded condition, Bounded a, Bounded b) {
  const Bounded taken = condition.value != 0 ? a : b;
  if (condition.exact()) return taken;
  if (std::isnan(a.value) || std::isnan(b.value)) return {taken.value, kInfinity};
  if (a.value == b.value && a.exact() && b.exact()) return taken;
  return bounded(taken.value, std::fabs(a.value - b.value) + std::max(a.error, b.error));
}

std::int32_t wrap(std::int64_t x) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(x));
}

Bounded integer_arithmetic(Op op, Bounded x, Bounded y) {
  const auto a = static_cast<std::int64_t>(x.value), b = static_cast<std::int64_t>(y.value);
  const double error = x.exact() && y.exact() ? 0 : kInfinity;
  const auto quotient = [&] { return b == 0 ? a : a / b; };  // truncates, as C++ does
  switch (op) {
    case Op::negate:
      return {static_cast<double>(wrap(-a)), error};
    case Op::abs:
      return {static_cast<double>(wrap(a < 0 ? -a : a)), error};
    case Op::add:
      return {static_cast<double>(wrap(a + b)), error};
    case Op::subtract:
      return {static_cast<double>(wrap(a - b)), error};
    case Op::multiply:
      return {static_cast<double>(wrap(a * b)), error};
    case Op::divide:
      return {static_cast<double>(wrap(quotient())), error};
    case Op::modulo:
      return {static_cast<double>(wrap(a - quotient() * (b == 0 ? 1 : b))), error};
    case Op::min:
      return {static_cast<double>(std::min(a, b)), std::max(x.error, y.error)};
    case Op::max:
      return {static_cast<double>(std::max(a, b)), std::max(x.error, y.error)};
    default:
      return {std::nan(""), kInfinity};
  }
}

/// min or max: the other one where one is NaN.
Bounded extremum(bool largest, Bounded x, Bounded y) {
  if (x.error == kInfinity || y.error == kInfinity) return {x.value, kInfinity};
  if (std::isnan(x.value)) return y;
  if (std::isnan(y.value)) return x;
  const Bounded taken = (largest ? x.value > y.value : x.value < y.value) ? x : y;
  double error = std::max(x.error, y.error);
  // One far below has no say; of two zeros either sign may come out.
  if (std::fabs(x.value - y.value) > x.error + y.error) error = taken.error;
  if (x.value == 0 && y.value == 0 && std::signbit(x.value) != std::signbit(y.value))
    error = std::max(error, 0x1p-149);
  return {taken.value, error};
}

class Interpreter {
 public:
  Interpreter(const dsl::Kernel& kernel, const dsl::Binding& binding,
              const std::vector<Tensor>& operands, const std::vector<double>& scalars,
              const std::vector<std::int64_t>& extents, Arithmetic arithmetic)
      : tree_(kernel.tree()),
        binding_(binding),
        operands_(operands),
        scalars_(scalars),
        extents_(extents),
        arithmetic_(arithmetic),
        position_(extents.size(), 0),
        known_(tree_.nodes.size()) {}

  Interpreted run() {
    Interpreted out{operands_, {}};
    for (const Tensor& operand : operands_) out.error.emplace_back(operand.count, 0.0);
    for (const dsl::Store& store : tree_.stores)
      over(tree_.axes_of(store.operand), [&] {
        std::vector<std::int64_t> indices;
        std::size_t num_picked = 0;
        for (const dsl::Dimension& dimension : layout(store.operand))
          indices.push_back(dimension.axis < 0 ? store.picked[num_picked++]
                                               : position_[at(dimension.axis)]);
        const std::size_t element = offset(store.operand, indices);
        const Bounded value = evaluate(store.value);
        out.operands[at(store.operand)].set(element, value.value);
        out.error[at(store.operand)][element] = value.error;
      });
    return out;
  }

 private:
  static std::size_t at(int number) { return static_cast<std::size_t>(number); }
  const std::vector<dsl::Dimension>& layout(int operand) const {
    return tree_.layouts[at(operand)];
  }
  std::int64_t extent(const dsl::Dimension& dimension) const {
    return dimension.axis < 0 ? dimension.extent : extents_[at(dimension.axis)];
  }
  std::size_t offset(int operand, const std::vector<std::int64_t>& indices) const {
    std::int64_t out = 0;
    for (std::size_t d = 0; d < indices.size(); ++d)
      out = out * extent(layout(operand)[d]) + indices[d];
    return static_cast<std::size_t>(out);
  }

  /// Calls `body` for every position along some axes, the last one fastest, and puts the old
  /// position back.
  template <class Body>
  void over(AxisSet axes, Body body) {
    const std::vector<std::int64_t> before = position_;
    std::vector<std::size_t> moving;
    for (std::size_t axis = 0; axis < extents_.size(); ++axis) {
      if (!((axes >> axis) & 1u)) continue;
      if (extents_[axis] == 0) return;
      moving.push_back(axis);
      position_[axis] = 0;
    }
    for (;;) {
      body();
      std::size_t i = moving.size();
      while (i > 0 && ++position_[moving[i - 1]] == extents_[moving[i - 1]])
        position_[moving[--i]] = 0;
      if (i == 0) break;
    }
    position_ = before;
  }

  /// Value of a node at the present position; it is the same along axes that the node lacks, and
  /// computed once for each position along the others.
  Bounded evaluate(int number) {
    const Node& node = tree_.nodes[at(number)];
    std::size_t key = 0, count = 1;
    for (std::size_t axis = 0; axis < extents_.size(); ++axis)
      if ((node.axes >> axis) & 1u) {
        key = key * static_cast<std::size_t>(extents_[axis]) +
              static_cast<std::size_t>(position_[axis]);
        count *= static_cast<std::size_t>(extents_[axis]);
      }
    auto& known = known_[at(number)];
    known.resize(count);
    if (!known[key]) {
      const Bounded value = compute(node);
      known_[at(number)][key] = value;
    }
    return *known_[at(number)][key];
  }

  Bounded compute(const Node& node) {
    switch (node.op) {
      case Op::load:
        return load(node);
      case Op::scalar:
        return {node.type.dtype == DType::i32 ? scalars_[at(node.index)]
                                              : as_f32(scalars_[at(node.index)]),
                0};
      case Op::index:
        return {static_cast<double>(position_[at(node.index)]), 0};
      case Op::extent:
        return {static_cast<double>(extents_[at(node.index)]), 0};
      default:
        break;
    }
    if (dsl::is_reduction(node.op)) return reduce(node);
    std::vector<Bounded> args;
    for (const int arg : node.args)
      if (arg >= 0) args.push_back(evaluate(arg));
    return apply(node, args, tree_.nodes);
  }

  Bounded load(const Node& node) {
    std::vector<std::int64_t> indices;
    std::size_t num_picked = 0, num_args = 0;
    bool inside = true, known = true;
    const auto& dimensions = layout(node.index);
    for (std::size_t d = 0; d < dimensions.size(); ++d) {
      if ((node.gathered >> d) & 1u) {
        const Bounded index = evaluate(node.args[num_args++]);
        known = known && index.exact();
        indices.push_back(static_cast<std::int64_t>(index.value));
        inside = inside && indices.back() >= 0 && indices.back() < extent(dimensions[d]);
      } else {
        indices.push_back(dimensions[d].axis < 0 ? node.picked[num_picked++]
                                                 : position_[at(dimensions[d].axis)]);
      }
    }
    const double value = inside ? operands_[at(node.index)].get(offset(node.index, indices)) : 0;
    return {value, known ? 0 : kInfinity};
  }

  Bounded apply(const Node& node, const std::vector<Bounded>& args,
                const std::vector<Node>& nodes) {
    const auto unknown = std::find_if(args.begin(), args.end(),
                                      [](const Bounded& arg) { return arg.error == kInfinity; });
    if (unknown != args.end() && node.op != Op::select) {
      // Still of the type it has, so that what follows can be evaluated.
      const Bounded value = apply_known(node, args, nodes);
      return {value.value, kInfinity};
    }
    return apply_known(node, args, nodes);
  }

  Bounded apply_known(const Node& node, const std::vector<Bounded>& args,
                      const std::vector<Node>& nodes) {
    switch (node.op) {
      case Op::constant:
        return {node.type.dtype == DType::i32 ? node.value : as_f32(node.value), 0};
      case Op::cast:
        return cast(args[0], dtype_of(nodes[at(node.args[0])].type), dtype_of(node.type));
      case Op::select:
        return choose(args[0], args[1], args[2]);
      case Op::both:
        return both(args[0], args[1]);
      case Op::either: {
        const Bounded neither = both(invert(args[0]), invert(args[1]));
        return invert(neither);
      }
      case Op::invert:
        return invert(args[0]);
      case Op::less:
        return compare(args[0], args[1], args[0].value < args[1].value);
      case Op::less_equal:
        return compare(args[0], args[1], args[0].value <= args[1].value);
      case Op::greater:
        return compare(args[0], args[1], args[0].value > args[1].value);
      case Op::greater_equal:
        return compare(args[0], args[1], args[0].value >= args[1].value);
      case Op::equal:
        return compare(args[0], args[1], args[0].value == args[1].value);
      case Op::not_equal:
        return compare(args[0], args[1], args[0].value != args[1].value);
      default:
        break;
    }
    if (node.type.param < 0 && node.type.dtype == DType::i32)
      return integer_arithmetic(node.op, args[0], args.size() > 1 ? args[1] : Bounded{});
    return args.size() == 1
               ? unary(node.op, args[0])
               : binary(node.op, args[0], args[1],
                        is_product(nodes, node.args[0]) || is_product(nodes, node.args[1]));
  }

  static bool is_product(const std::vector<Node>& nodes, int number) {
    return nodes[at(number)].op == Op::multiply;
  }

  static Bounded invert(Bounded x) { return {x.value == 0 ? 1.0 : 0.0, x.error}; }
  static Bounded both(Bounded x, Bounded y) {
    const bool holds = x.value != 0 && y.value != 0;
    const bool surely_not = (x.exact() && x.value == 0) || (y.exact() && y.value == 0);
    return {holds ? 1.0 : 0.0, surely_not || (x.exact() && y.exact()) ? 0.0 : 1.0};
  }

  DType dtype_of(const dsl::Type& type) const { return dsl::resolve(tree_, type, binding_); }

  static bool is_integer(DType dtype) {
    return dtype == DType::i32 || dtype == DType::i8 || dtype == DType::u8 || dtype == DType::i4;
  }

  static Bounded cast(Bounded x, DType from, DType to) {
    if (is_integer(from) && is_integer(to)) {
      const double low = to == DType::i32  ? -2147483648.0
                         : to == DType::i8 ? -128
                         : to == DType::u8 ? 0
                                           : -8;
      const double high = to == DType::i32  ? 2147483647.0
                          : to == DType::i8 ? 127
                          : to == DType::u8 ? 255
                                            : 7;
      return {std::clamp(x.value, low, high), x.error};
    }
    if (std::isnan(x.value) && !x.exact()) return {is_integer(to) ? 0 : x.value, kInfinity};
    const auto narrow = [&](double value) { return rounded_to(to, static_cast<float>(value)); };
    const double value = narrow(x.value);
    if (x.exact()) return {value, 0};
    if (x.error == kInfinity) return {value, kInfinity};
    const double error = std::max(std::fabs(narrow(x.value - x.error) - value),
                                  std::fabs(narrow(x.value + x.error) - value));
    return bounded(value, error);
  }

  Bounded unary(Op op, Bounded x) const {
    switch (op) {
      case Op::negate:
        return {-x.value, x.error};
      case Op::abs:
        return {std::fabs(x.value), x.error};
      case Op::sqrt:
        return monotone(x, x.exact() ? 0 : 1, [](double v) { return std::sqrt(v); });
      case Op::rsqrt:
        if (!x.exact() && x.value - x.error <= 0) return {1 / std::sqrt(x.value), kInfinity};
        return monotone(x, 3, [](double v) { return 1 / std::sqrt(v); });
      case Op::exp:
        return monotone(x, 4, [](double v) { return std::exp(v); });
      case Op::exp2:
        return monotone(x, 4, [](double v) { return std::exp2(v); });
      case Op::log:
        return monotone(x, 4, [](double v) { return std::log(v); });
      case Op::log2:
        return monotone(x, 4, [](double v) { return std::log2(v); });
      case Op::tanh:
        return monotone(x, 4, [](double v) { return std::tanh(v); });
      case Op::erf:
        return monotone(x, 4, [](double v) { return std::erf(v); });
      case Op::sigmoid: {
        Bounded out = monotone(x, 6, [](double v) { return 1 / (1 + std::exp(-v)); });
        // The GPU's fast division takes what would be subnormal to 0.
        if (arithmetic_.contracts && std::fabs(out.value) < 0x1p-125) out.error += 0x1p-125;
        return out;
      }
      case Op::sin:
      case Op::cos: {
        const double value = as_f32(op == Op::sin ? std::sin(x.value) : std::cos(x.value));
        return bounded(value, std::min(x.error, 2.0) + 4 * ulp(value));
      }
      case Op::floor:
        return monotone(x, 0, [](double v) { return std::floor(v); });
      case Op::ceil:
        return monotone(x, 0, [](double v) { return std::ceil(v); });
      case Op::round:
        return monotone(x, 0, [](double v) { return std::nearbyint(v); });
      case Op::trunc:
        return monotone(x, 0, [](double v) { return std::trunc(v); });
      default:
        return {std::nan(""), kInfinity};
    }
  }

  /// One rounding, which all have in common if what is rounded is.
  Bounded rounded(double value, double error, bool may_contract) const {
    const bool certain = error == 0 && !(may_contract && arithmetic_.contracts);
    const double nearest = as_f32(value);
    return bounded(nearest, certain ? 0 : error + ulp(nearest));
  }

  Bounded quotient(Bounded x, Bounded y) const {
    const double a = x.value, b = y.value;
    if (x.exact() && y.exact()) return rounded(a / b, 0, false);
    if (std::fabs(b) <= y.error || std::isinf(b)) return {as_f32(a / b), kInfinity};
    return rounded(a / b, (x.error + std::fabs(a / b) * y.error) / (std::fabs(b) - y.error), false);
  }

  Bounded binary(Op op, Bounded x, Bounded y, bool of_products) const {
    const double a = x.value, b = y.value;
    switch (op) {
      case Op::add:
      case Op::subtract: {
        const double value = op == Op::add ? a + b : a - b;
        Bounded out = rounded(value, x.error + y.error, of_products);
        if (of_products && arithmetic_.contracts && out.error > 0)
          out.error += ulp(a) + ulp(b);  // what the products were not rounded by
        return out;
      }
      case Op::multiply: {
        if ((std::isinf(a) && !y.exact()) || (std::isinf(b) && !x.exact()))
          return {a * b, kInfinity};
        return rounded(a * b,
                       x.exact() && y.exact()
                           ? 0
                           : std::fabs(a) * y.error + std::fabs(b) * x.error + x.error * y.error,
                       false);
      }
      case Op::divide: {
        Bounded out = quotient(x, y);
        if (arithmetic_.contracts) out.error += 2 * ulp(out.value);  // the GPU's are that far off
        return out;
      }
      case Op::power:
        return power(x, y);
      case Op::min:
        return extremum(false, x, y);
      case Op::max:
        return extremum(true, x, y);
      default:
        return {std::nan(""), kInfinity};
    }
  }

  static Bounded power(Bounded x, Bounded y) {
    const double value = as_f32(std::pow(x.value, y.value));
    double error = 16 * ulp(value);
    if (x.exact() && y.exact()) return bounded(value, error);
    if (x.value - x.error <= 0) return {value, kInfinity};
    for (const double a : {x.value - x.error, x.value + x.error})  // rises or falls in both
      for (const double b : {y.value - y.error, y.value + y.error})
        error = std::max(error, std::fabs(std::pow(a, b) - value) + 16 * ulp(value));
    return bounded(value, error);
  }

  Bounded reduce(const Node& node) {
    std::vector<Bounded> values;
    over(node.reduced, [&] { values.push_back(evaluate(node.args[0])); });
    const bool known = std::none_of(values.begin(), values.end(),
                                    [](const Bounded& v) { return v.error == kInfinity; });
    Bounded out;
    switch (node.op) {
      case Op::reduce_sum:
      case Op::reduce_mean:
        out = sum(values);
        if (node.op == Op::reduce_mean)
          out =
              out.error == kInfinity
                  ? Bounded{out.value, kInfinity}
                  : binary(Op::divide, out, {as_f32(static_cast<double>(values.size())), 0}, false);
        break;
      case Op::reduce_min:
      case Op::reduce_max: {
        const bool largest = node.op == Op::reduce_max;
        out.value = largest ? -kInfinity : kInfinity;
        for (const Bounded& v : values) out = extremum(largest, out, v);
        break;
      }
      case Op::reduce_argmin:
      case Op::reduce_argmax:
        out = position(values, node.op == Op::reduce_argmax);
        break;
      default:
        out = custom(tree_.combines[at(node.index)], values);
    }
    if (!known) out.error = kInfinity;
    return out;
  }

  /// Folded in any order, in f32: as exact as its terms, but for one rounding of the sum of all
  /// magnitudes for each term. Exact if no partial sum needs rounding.
  static Bounded sum(const std::vector<Bounded>& values) {
    double total = 0, magnitude = 0, error = 0;
    bool whole = true;
    for (const Bounded& v : values) {
      total += v.value;
      magnitude += std::fabs(v.value);
      error += v.error;
      whole = whole && v.exact() && v.value * 256 == std::floor(v.value * 256);
    }
    const double nearest = as_f32(total);
    if (values.size() == 1 && values[0].exact() && nearest != 0) return {nearest, 0};
    if (whole && magnitude * 256 < 0x1p24 && (total != 0 || magnitude == 0)) return {nearest, 0};
    if (std::isnan(total) || std::isinf(total)) return {nearest, error == 0 ? 0 : kInfinity};
    return bounded(nearest,
                   error + magnitude * 0x1p-24 * static_cast<double>(values.size() + 1) + 0x1p-149);
  }

  static Bounded position(const std::vector<Bounded>& values, bool largest) {
    std::size_t best = values.size();
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(values[i].value)) continue;
      if (best == values.size() ||
          (largest ? values[i].value > values[best].value : values[i].value < values[best].value))
        best = i;
    }
    if (best == values.size()) return {0, 0};
    double error = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double slack = values[i].error + values[best].error;
      if (i != best && slack > 0 && !(std::fabs(values[i].value - values[best].value) > slack))
        error = kInfinity;
    }
    return {static_cast<double>(best), error};
  }

  Bounded custom(const dsl::Combine& combine, const std::vector<Bounded>& values) {
    Bounded total{as_f32(combine.identity), 0};
    for (const Bounded& value : values) {
      std::vector<Bounded> results;
      for (const Node& node : combine.nodes) {
        std::vector<Bounded> args;
        for (const int arg : node.args)
          if (arg >= 0) args.push_back(results[at(arg)]);
        Bounded result = node.op == Op::parameter ? (node.index == 0 ? total : value)
                                                  : apply(node, args, combine.nodes);
        // Another order rounds otherwise.
        if (node.op == Op::add || node.op == Op::subtract || node.op == Op::multiply ||
            node.op == Op::divide || node.op == Op::sqrt)
          result = bounded(result.value, result.error + ulp(result.value));
        results.push_back(result);
      }
      total = results[at(combine.result)];
    }
    return bounded(total.value, 2 * total.error);
  }

  const Tree& tree_;
  const dsl::Binding& binding_;
  const std::vector<Tensor>& operands_;
  const std::vector<double>& scalars_;
  const std::vector<std::int64_t>& extents_;
  Arithmetic arithmetic_;
  std::vector<std::int64_t> position_;                      // along each axis
  std::vector<std::vector<std::optional<Bounded>>> known_;  // of each node
};

}  // namespace

Interpreted interpret(const dsl::Kernel& kernel, const dsl::Binding& binding,
                      const std::vector<Tensor>& operands, const std::vector<double>& scalars,
                      const std::vector<std::int64_t>& extents, Arithmetic arithmetic) {
  return Interpreter(kernel, binding, operands, scalars, extents, arithmetic).run();
}

std::optional<std::string> difference(const dsl::Kernel& kernel, const Interpreted& wanted,
                                      const std::vector<Tensor>& got) {
  for (std::size_t o = 0; o < got.size(); ++o) {
    const Tensor &right = wanted.operands[o], &checked = got[o];
    for (std::size_t i = 0; i < right.count; ++i) {
      const double a = right.get(i), b = checked.get(i), error = wanted.error[o][i];
      if (error == kInfinity || a == b || (std::isnan(a) && std::isnan(b))) continue;
      // In f32 and narrower a result within the error may round to the next value.
      if (std::fabs(a - b) <= error * (1 + 0x1p-20)) continue;
      return fmt::format("operand {} [{}]: {} instead of {} +- {}", kernel.operands()[o].name, i, b,
                         a, error);
    }
  }
  return std::nullopt;
}

std::size_t num_elements(const dsl::Kernel& kernel, std::size_t operand,
                         const std::vector<std::int64_t>& extents) {
  std::int64_t count = 1;
  for (const dsl::Dimension& dimension : kernel.tree().layouts[operand])
    count *=
        dimension.axis < 0 ? dimension.extent : extents[static_cast<std::size_t>(dimension.axis)];
  return static_cast<std::size_t>(count);
}

}  // namespace quern::test
