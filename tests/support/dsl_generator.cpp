#include "tests/support/dsl_generator.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <stdexcept>

#include "tests/support/dsl_interpreter.h"

namespace quern::test {
namespace {

/// SplitMix64, so that a seed means the same everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// From 0 to n - 1.
  int below(int n) { return static_cast<int>(next() % static_cast<std::uint64_t>(n)); }
  int between(int low, int high) { return low + below(high - low + 1); }
  bool chance(int percent) { return below(100) < percent; }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  template <class T>
  const T& pick(const std::vector<T>& from) {
    return from[static_cast<std::size_t>(below(static_cast<int>(from.size())))];
  }

 private:
  std::uint64_t state_;
};

using Axes = unsigned;  // bit i: the i-th axis that is iterated over

const std::vector<std::string> kDTypes{"f32", "f16",  "bf16", "i32", "i8",
                                       "u8",  "e4m3", "e5m2", "i4"};

class Generator {
 public:
  explicit Generator(std::uint64_t seed) : random_(seed) {}

  Program run() {
    choose_axes();
    declare_library();
    declare_operands();
    write_body();
    out_.text = library_ + header() + body_ + "}\n";
    return std::move(out_);
  }

 private:
  enum class Kind { number, integer, condition };
  struct Operand {
    std::string name, dtype;
    Axes axes = 0;
    int fixed = 0;                // extent of a fixed axis; 0: none
    std::size_t fixed_place = 0;  // before which of its axes it stands
    std::string table;            // axis that is only gathered along, outermost
    char role = 'i';              // i, b(oth), o
    bool used = false;
  };
  struct Local {
    std::string name;
    Kind kind = Kind::number;
    Axes axes = 0;
    bool used = false;
  };

  // Shape.

  void choose_axes() {
    static const std::vector<std::string> pool{"heads", "rows",   "groups", "cols", "lanes",
                                               "batch", "tokens", "n",      "m"};
    const int rank = random_.between(1, 4);
    std::vector<std::string> names = pool;
    for (int i = 0; i < rank; ++i) {
      const int which = random_.below(static_cast<int>(names.size()));
      axes_.push_back(names[static_cast<std::size_t>(which)]);
      names.erase(names.begin() + which);
    }
    all_ = (1u << rank) - 1;
    const int form = random_.below(10);
    if (form < 2) {  // no reductions
      walked_ = 1u << (rank - 1);
    } else if (form < 5 || rank == 1) {  // over the innermost axes
      const int count = random_.between(1, std::min(rank, random_.chance(70) ? 1 : 3));
      walked_ = all_ & ~((1u << (rank - count)) - 1);
      reduces_ = true;
    } else if (form < 7) {  // over columns
      walked_ = 1u << random_.below(rank - 1);
      if (rank > 2 && random_.chance(30)) walked_ |= 1u << random_.below(rank - 1);
      reduces_ = true;
    } else {  // over rows and segments of them
      const int count = random_.between(2, rank);
      const int inner = random_.between(1, count - 1);
      walked_ = all_ & ~((1u << (rank - count)) - 1);
      segment_ = all_ & ~((1u << (rank - inner)) - 1);
      reduces_ = true;
    }
    int room = 400;
    for (int i = rank - 1; i >= 0; --i) {
      static const std::vector<int> sizes{1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 31, 33, 64, 67};
      int extent = random_.pick(sizes);
      while (extent > room) extent /= 2;
      extent = std::max(extent, 1);
      room = std::max(room / extent, 1);
      if (random_.chance(1) && segment_ == 0) extent = 0;
      set_extent(axes_[static_cast<std::size_t>(i)], extent);
    }
  }

  void set_extent(const std::string& axis, std::int64_t extent) {
    out_.extents[axis] = extent;
    if (random_.chance(30)) out_.bound_axes.push_back(axis);
  }

  Axes leading() const { return all_ & ~walked_; }
  Axes outer() const { return walked_ & ~segment_; }
  std::string names_of(Axes axes) const {
    std::vector<std::string> out;
    for (std::size_t i = 0; i < axes_.size(); ++i)
      if ((axes >> i) & 1u) out.push_back(axes_[i]);
    return fmt::format("{}", fmt::join(out, ", "));
  }
  std::vector<std::string> list_of(Axes axes) const {
    std::vector<std::string> out;
    for (std::size_t i = 0; i < axes_.size(); ++i)
      if ((axes >> i) & 1u) out.push_back(axes_[i]);
    return out;
  }
  static int size(Axes axes) { return __builtin_popcount(axes); }

  // Declarations.

  void declare_library() {
    library_ += "let squash(x) = x / (1 + abs(x))\n";
    if (random_.chance(30)) library_ += "let swish(a, b) = squash(a) * sigmoid(b)\n";
    const std::vector<std::string> params =
        size(walked_) == 1   ? std::vector<std::string>{"p"}
        : size(walked_) == 2 ? std::vector<std::string>{"p", "q"}
        : size(walked_) == 3 ? std::vector<std::string>{"p", "q", "r"}
                             : std::vector<std::string>{"p", "q", "r", "s"};
    const std::string list = fmt::format("{}", fmt::join(params, ", "));
    library_ += fmt::format("let scaled[{0}](x) = x / (0.5 + mean[{0}](abs(x)))\n", list);
    library_ += fmt::format(
        "let softened[{0}](x) = exp(x - max[{0}](x)) / sum[{0}](exp(x - max[{0}](x)))\n", list);
    library_ +=
        "reduction product(a, b) = a * b from 1\n"
        "reduction farthest(a, b) = max(abs(a), abs(b)) from 0\n"
        "reduction compound(a, b) = a + b + a * b from 0\n"
        "reduction smooth(a, b) = max(a, b) + log(1 + exp(-abs(a - b))) from -1e4\n";
  }

  Axes random_subset(Axes of) { return of & static_cast<Axes>(random_.next()); }

  std::string operand_dtype(bool may_be_param = true) {
    if (may_be_param && random_.chance(25)) {
      const std::string param = random_.chance(50) ? "T" : "R";
      if (!out_.dtypes.count(param))
        out_.dtypes[param] =
            *parse_dtype(kDTypes[static_cast<std::size_t>(random_.below(8))]);  // all but i4
      return param;
    }
    return random_.chance(35) ? "f32" : random_.pick(kDTypes);
  }

  /// i4 is packed in pairs along the last axis.
  void make_packable(Operand& operand) {
    if (operand.dtype != "i4") return;
    const std::vector<std::string> own = list_of(operand.axes);
    if (operand.fixed > 0 && operand.fixed_place == own.size()) {
      operand.fixed = 2;
      return;
    }
    if (own.empty()) {
      operand.dtype = "i8";
      return;
    }
    const bool is_written = operand.role != 'i';
    if (is_written &&
        !(operand.axes >> (axes_.size() - 1) & 1u & (walked_ >> (axes_.size() - 1)))) {
      operand.dtype = "i8";
      return;
    }
    std::int64_t& extent = out_.extents[own.back()];
    extent += extent % 2;
  }

  void declare_operands() {
    const int num_inputs = random_.between(1, 4);
    for (int i = 0; i < num_inputs; ++i) {
      Operand operand;
      operand.name = fmt::format("x{}", i);
      operand.axes = i == 0 ? all_ : random_subset(all_);
      operand.dtype = operand_dtype();
      if (random_.chance(20)) add_fixed(operand);
      make_packable(operand);
      operands_.push_back(operand);
    }
    if (random_.chance(30)) {  // a table to gather from
      Operand operand;
      operand.name = "table";
      operand.table = "vocab";
      operand.axes = random_subset(all_);
      operand.dtype = operand_dtype();
      if (random_.chance(30)) add_fixed(operand);
      make_packable(operand);
      if (operand.dtype == "i4" && operand.axes == 0 && operand.fixed == 0) operand.dtype = "i8";
      operands_.push_back(operand);
      set_extent("vocab", random_.between(random_.chance(5) ? 0 : 1, 9));
    }
    if (random_.chance(35)) {
      Operand operand;
      operand.name = "state";
      operand.role = 'b';
      choose_written(operand);
      operands_.push_back(operand);
    }
    for (int i = 0; i < 3; ++i)
      if (random_.chance(60)) {
        const std::string name = fmt::format("s{}", i);
        const bool integer = random_.chance(40);
        scalars_.push_back({name, integer ? Kind::integer : Kind::number, 0, false});
        out_.scalars[name] = integer ? random_.between(-6, 6) : random_.between(-16, 16) * 0.25;
      }
    const int num_extra = random_.below(3);
    for (int i = 0; i < num_extra; ++i) {
      Operand operand;
      operand.name = fmt::format("y{}", i + 1);
      operand.role = 'o';
      choose_written(operand);
      operands_.push_back(operand);
    }
    Operand last;  // takes in all that nothing else has used
    last.name = "y";
    last.role = 'o';
    last.axes = all_;
    last.dtype = operand_dtype();
    make_packable(last);
    operands_.push_back(last);
  }

  void add_fixed(Operand& operand) {
    operand.fixed = random_.between(1, 3);
    operand.fixed_place =
        static_cast<std::size_t>(random_.below(static_cast<int>(size(operand.axes)) + 1));
  }

  void choose_written(Operand& operand) {
    std::vector<Axes> choices{all_, leading()};
    if (segment_ != 0) choices.push_back(leading() | outer());
    operand.axes = random_.pick(choices);
    operand.dtype = operand_dtype();
    if (random_.chance(20)) add_fixed(operand);
    make_packable(operand);
  }

  std::string declaration(const Operand& operand) const {
    std::vector<std::string> dimensions = list_of(operand.axes);
    if (operand.fixed > 0)
      dimensions.insert(dimensions.begin() + static_cast<std::ptrdiff_t>(operand.fixed_place),
                        std::to_string(operand.fixed));
    if (!operand.table.empty()) dimensions.insert(dimensions.begin(), operand.table);
    return fmt::format("{}: {}{}[{}]", operand.name, operand.role == 'b' ? "inout " : "",
                       operand.dtype, fmt::join(dimensions, ", "));
  }

  std::string header() const {
    std::vector<std::string> inputs, outputs, scalars;
    for (const Operand& operand : operands_)
      (operand.role == 'o' ? outputs : inputs).push_back(declaration(operand));
    for (const Local& scalar : scalars_)
      scalars.push_back(
          fmt::format("{}: {}", scalar.name, scalar.kind == Kind::integer ? "i32" : "f32"));
    return fmt::format("kernel k({}{}{})\n    -> ({}) {{\n", fmt::join(inputs, ", "),
                       scalars.empty() ? "" : "; ", fmt::join(scalars, ", "),
                       fmt::join(outputs, ", "));
  }

  // Expressions. `allowed`: axes that the value may have.

  std::string number(Axes allowed, int depth) {
    if (depth <= 0 || random_.chance(12)) return number_leaf(allowed);
    const auto sub = [&] { return number(allowed, depth - 1); };
    switch (random_.below(26)) {
      case 0:
      case 1:
        return fmt::format("({} + {})", sub(), sub());
      case 2:
      case 3:
        return fmt::format("({} - {})", sub(), sub());
      case 4:
      case 5:
        return fmt::format("({} * {})", sub(), sub());
      case 6:
        return random_.chance(15) ? fmt::format("({} / {})", sub(), sub())
                                  : fmt::format("({} / (1.5 + abs({})))", sub(), sub());
      case 7:
        return fmt::format("{}({}, {})", random_.chance(50) ? "min" : "max", sub(), sub());
      case 8:
        return fmt::format("-({})", sub());
      case 9:
        return fmt::format("abs({})", sub());
      case 10:
        return fmt::format("sqrt(abs({}))", sub());
      case 11:
        return fmt::format("rsqrt(0.5 + abs({}))", sub());
      case 12:
        return fmt::format("{}(squash({}) * 3)", random_.chance(50) ? "exp" : "exp2", sub());
      case 13:
        return fmt::format("{}(0.25 + abs({}))", random_.chance(50) ? "log" : "log2", sub());
      case 14: {
        static const std::vector<std::string> functions{"tanh", "erf", "sin", "cos", "sigmoid"};
        return fmt::format("{}({})", random_.pick(functions), sub());
      }
      case 15: {
        static const std::vector<std::string> functions{"floor", "ceil", "round", "trunc"};
        return fmt::format("{}({})", random_.pick(functions), sub());
      }
      case 16:
        return fmt::format("pow(0.5 + abs(squash({})), squash({}) * 2)", sub(), sub());
      case 17:
        return fmt::format("select({}, {}, {})", condition(allowed, depth - 1), sub(), sub());
      case 18:
        return fmt::format("f32({})", integer(allowed, depth - 1));
      case 19:
        return fmt::format("f32({}({}))", cast_dtype(), sub());
      case 20:
        return fmt::format("squash({})", sub());
      case 21:
        return library_.find("swish") != std::string::npos
                   ? fmt::format("swish({}, {})", sub(), sub())
                   : fmt::format("round({} * 4)", sub());
      default:
        return reduction(allowed, depth);
    }
  }

  std::string cast_dtype() {
    std::vector<std::string> known = kDTypes;
    for (const auto& [param, _] : out_.dtypes)
      if (is_declared(param)) known.push_back(param);
    return random_.pick(known);
  }
  bool is_declared(const std::string& param) const {
    return std::any_of(operands_.begin(), operands_.end(),
                       [&](const Operand& operand) { return operand.dtype == param; });
  }

  /// Something that varies along all of these axes, and perhaps along more of `allowed`.
  std::string anchor(Axes wanted) {
    for (Local& local : locals_)
      if (local.name == "old" && local.axes == wanted && random_.chance(50)) {
        local.used = true;
        return local.name;
      }
    std::vector<Operand*> fitting;
    for (Operand& operand : operands_)
      if (operand.role == 'i' && operand.table.empty() && operand.axes == wanted)
        fitting.push_back(&operand);
    if (!fitting.empty() && random_.chance(85)) return read_number(*random_.pick(fitting));
    std::vector<std::string> sum;
    for (const std::string& axis : list_of(wanted))
      sum.push_back(fmt::format("f32(index({}) % {})", axis, random_.between(2, 7)));
    return fmt::format("({})", fmt::join(sum, " + "));
  }

  std::string reduction(Axes allowed, int depth) {
    if (!reduces_) return number_leaf(allowed);
    const Axes over = segment_ != 0 && random_.chance(50) ? segment_ : walked_;
    if (segment_ != 0 && over == walked_ && random_.chance(20)) {  // of what segments reduced
      if ((leading() & ~allowed) != 0) return number_leaf(allowed);
      const std::string inner =
          fmt::format("{}[{}]({})", random_.pick(kReductions), names_of(segment_), anchor(all_));
      return reduce(outer(), fmt::format("{} + {}", inner, number(leading() | outer(), 1)));
    }
    // A leading axis that the result may not have must not be in what is reduced.
    const Axes rest = allowed & ~over;
    Axes needed = over;
    if (over == segment_ && (outer() & ~allowed) != 0 && random_.chance(50))
      return number_leaf(allowed);
    const Axes inside = rest | over;
    needed = random_.chance(60) ? inside : over;
    if (random_.chance(15) && over == walked_) {
      if ((over & ~allowed) != 0)
        return reduce(over, fmt::format("{} * {}", anchor(needed), number(inside, depth - 1)));
      return fmt::format("{}[{}]({} + {})", random_.chance(50) ? "scaled" : "softened",
                         names_of(over), anchor(needed), number(inside, depth - 1));
    }
    return reduce(over, fmt::format("{} + {}", anchor(needed), number(inside, depth - 1)));
  }

  std::string reduce(Axes over, const std::string& value) {
    const std::string axes = names_of(over);
    switch (random_.below(12)) {
      case 0:
        return fmt::format("product[{}](1 + squash({}) * 0.25)", axes, value);
      case 1:
        return fmt::format("farthest[{}]({})", axes, value);
      case 2:
        return fmt::format("compound[{}](squash({}) * 0.125)", axes, value);
      case 3:
        return fmt::format("smooth[{}](squash({}) * 4)", axes, value);
      case 4:
        return fmt::format("f32({}[{}]({}))", random_.chance(50) ? "argmax" : "argmin", axes,
                           value);
      default:
        return fmt::format("{}[{}]({})", random_.pick(kReductions), axes, value);
    }
  }

  std::string number_leaf(Axes allowed) {
    std::vector<std::string> choices;
    for (Local& local : locals_)
      if (fits(local, allowed, Kind::number)) choices.push_back(local.name);
    for (Operand& operand : operands_)
      if (fits(operand, allowed)) choices.push_back(operand.name);
    for (const Local& scalar : scalars_)
      if (scalar.kind == Kind::number) choices.push_back(scalar.name);
    if (choices.empty() || random_.chance(15)) return constant();
    return use(random_.pick(choices), allowed);
  }

  std::string constant() {
    const double value = random_.between(-24, 24) * (random_.chance(50) ? 0.25 : 1.0);
    const std::string text = random_.chance(10) ? fmt::format("{:.6g}", random_.uniform() * 3)
                                                : fmt::format("{}", value);
    if (random_.chance(2)) return random_.chance(50) ? "min(inf, 5)" : "max(-inf, 2)";
    return value < 0 ? fmt::format("({})", text) : text;
  }

  static bool fits(const Local& local, Axes allowed, Kind kind) {
    return local.kind == kind && (local.axes & ~allowed) == 0;
  }
  static bool fits(const Operand& operand, Axes allowed) {
    return operand.role != 'o' && (operand.axes & ~allowed) == 0;
  }

  std::string use(const std::string& name, Axes allowed) {
    for (Local& local : locals_)
      if (local.name == name) {
        local.used = true;
        return name;
      }
    for (Local& scalar : scalars_)
      if (scalar.name == name) {
        scalar.used = true;
        return name;
      }
    for (Operand& operand : operands_)
      if (operand.name == name) return read_number(operand, allowed);
    throw std::logic_error("no such name: " + name);
  }

  /// An operand as written in an expression, of its own dtype.
  std::string read(Operand& operand, Axes allowed) {
    operand.used = true;
    std::vector<std::string> items;
    if (!operand.table.empty())
      items.push_back(fmt::format("{} = {}", operand.table, index(allowed)));
    if (operand.fixed > 0) items.push_back(std::to_string(random_.below(operand.fixed)));
    // An axis that is iterated over can be gathered along too.
    if (operand.role == 'i' && operand.table.empty() && operand.axes == all_ && random_.chance(8))
      items.push_back(fmt::format(
          "{} = {}", axes_[static_cast<std::size_t>(random_.below(static_cast<int>(axes_.size())))],
          index(allowed)));
    return items.empty() ? operand.name
                         : fmt::format("{}[{}]", operand.name, fmt::join(items, ", "));
  }

  std::string index(Axes allowed) {
    return random_.chance(50) ? fmt::format("({} % 5)", integer(allowed, 1)) : integer(allowed, 1);
  }

  /// An operand as an f32.
  std::string read_number(Operand& operand, Axes allowed) {
    const std::string text = read(operand, allowed);
    return operand.dtype == "f32" && random_.chance(50) ? text : fmt::format("f32({})", text);
  }
  /// With all axes that it has.
  std::string read_number(Operand& operand) {
    operand.used = true;
    return operand.fixed > 0
               ? fmt::format("f32({}[{}])", operand.name, random_.below(operand.fixed))
               : fmt::format("f32({})", operand.name);
  }

  std::string integer(Axes allowed, int depth) {
    if (depth <= 0 || random_.chance(20)) return integer_leaf(allowed);
    const auto sub = [&] { return integer(allowed, depth - 1); };
    switch (random_.below(10)) {
      case 0:
      case 1:
        return fmt::format("({} + {})", sub(), sub());
      case 2:
        return fmt::format("({} - {})", sub(), sub());
      case 3:
        return fmt::format("({} * {})", sub(),
                           random_.chance(50) ? sub() : std::to_string(random_.between(2, 9)));
      case 4:
        return fmt::format("({} / {})", sub(),
                           random_.chance(50) ? sub() : std::to_string(random_.between(0, 9)));
      case 5:
        return fmt::format("({} % {})", sub(),
                           random_.chance(50) ? sub() : std::to_string(random_.between(0, 9)));
      case 6:
        return fmt::format("{}({}, {})", random_.chance(50) ? "min" : "max", sub(), sub());
      case 7:
        return random_.chance(50) ? fmt::format("-({})", sub()) : fmt::format("abs({})", sub());
      case 8:
        return fmt::format("select({}, {}, {})", condition(allowed, depth - 1), sub(), sub());
      default:
        return fmt::format("i32({})", number(allowed, depth - 1));
    }
  }

  std::string integer_leaf(Axes allowed) {
    std::vector<std::string> choices{fmt::format("i32({})", random_.between(0, 20)),
                                     fmt::format("extent({})", random_.pick(axes_))};
    for (const std::string& axis : list_of(allowed)) {
      choices.push_back(fmt::format("index({})", axis));
      choices.push_back(choices.back());
    }
    for (Local& local : locals_)
      if (fits(local, allowed, Kind::integer)) choices.push_back(local.name);
    for (const Local& scalar : scalars_)
      if (scalar.kind == Kind::integer) choices.push_back(scalar.name);
    for (const Operand& operand : operands_)
      if (fits(operand, allowed) && operand.table.empty() && operand.fixed == 0 &&
          (operand.dtype == "i32" || operand.dtype == "i8" || operand.dtype == "u8" ||
           operand.dtype == "i4"))
        choices.push_back(operand.name);
    const std::string taken = random_.pick(choices);
    for (Operand& operand : operands_)
      if (operand.name == taken) {
        operand.used = true;
        return fmt::format("i32({})", taken);
      }
    for (auto* list : {&locals_, &scalars_})
      for (Local& local : *list)
        if (local.name == taken) local.used = true;
    return taken;
  }

  std::string condition(Axes allowed, int depth) {
    static const std::vector<std::string> comparisons{"<", "<=", ">", ">=", "==", "!="};
    for (Local& local : locals_)
      if (fits(local, allowed, Kind::condition) && random_.chance(30)) {
        local.used = true;
        return local.name;
      }
    if (depth > 0 && random_.chance(30))
      return random_.chance(30)
                 ? fmt::format("!({})", condition(allowed, depth - 1))
                 : fmt::format("(({}) {} ({}))", condition(allowed, depth - 1),
                               random_.chance(50) ? "&&" : "||", condition(allowed, depth - 1));
    if (random_.chance(50))
      return fmt::format("{} {} {}", integer(allowed, depth), random_.pick(comparisons),
                         integer(allowed, depth));
    return fmt::format("{} {} {}", number(allowed, depth), random_.pick(comparisons),
                       number(allowed, depth));
  }

  // Statements.

  void introduce(const std::string& name, Kind kind, Axes axes, const std::string& value) {
    body_ += fmt::format("  {} = {}\n", name, value);
    locals_.push_back({name, kind, axes, false});
  }

  void write_body() {
    for (Operand& operand : operands_)
      if (operand.role == 'b') introduce("old", Kind::number, operand.axes, read_number(operand));
    if (reduces_) {
      introduce(
          "whole", Kind::number, leading(),
          fmt::format("{}[{}]({})", random_.pick(kReductions), names_of(walked_), anchor(all_)));
      if (segment_ != 0)
        introduce(
            "part", Kind::number, leading() | outer(),
            fmt::format("{}[{}]({})", random_.pick(kReductions), names_of(segment_), anchor(all_)));
    }
    const int num_locals = random_.below(3);
    for (int i = 0; i < num_locals; ++i) {
      std::vector<Axes> choices{all_, all_, leading()};
      if (segment_ != 0) choices.push_back(leading() | outer());
      const Axes allowed = random_.pick(choices);
      const Kind kind = random_.chance(70)   ? Kind::number
                        : random_.chance(50) ? Kind::integer
                                             : Kind::condition;
      const int depth = random_.chance(10) ? 3 : random_.between(1, 2);
      // Its axes are at most those allowed, which is what counts for its users.
      introduce(fmt::format("t{}", i), kind, allowed,
                kind == Kind::number    ? number(allowed, depth)
                : kind == Kind::integer ? integer(allowed, depth)
                                        : condition(allowed, depth));
    }
    for (std::size_t i = 0; i < operands_.size(); ++i)
      if (operands_[i].role != 'i' && operands_[i].name != "y") assign(operands_[i]);
    std::string rest = number(all_, random_.between(1, 2));
    for (std::size_t i = 0; i < locals_.size(); ++i) {
      if (locals_[i].used) continue;
      locals_[i].used = true;
      const std::string& name = locals_[i].name;
      rest += locals_[i].kind == Kind::number    ? fmt::format(" + 0.25 * squash({})", name)
              : locals_[i].kind == Kind::integer ? fmt::format(" + f32({} % 7)", name)
                                                 : fmt::format(" + select({}, 0.5, -0.25)", name);
    }
    for (Operand& operand : operands_)
      if (operand.role == 'i' && !operand.used)
        rest += fmt::format(" - 0.5 * squash({})", read_number(operand, all_));
    for (Local& scalar : scalars_)
      if (!scalar.used)
        rest +=
            fmt::format(" + {}", scalar.kind == Kind::number ? scalar.name
                                                             : fmt::format("f32({})", scalar.name));
    write("y", operands_.back().dtype, rest);
  }

  void assign(Operand& operand) {
    for (int place = 0; place < std::max(operand.fixed, 1); ++place)
      write(operand.fixed > 0 ? fmt::format("{}[{}]", operand.name, place) : operand.name,
            operand.dtype, number(operand.axes, random_.between(0, 2)));
    // From now on the name means what was assigned.
    if (operand.role == 'o' && random_.chance(30) && operand.axes != 0)
      introduce(operand.name + "_again", Kind::number, operand.axes, read_number(operand));
  }

  void write(const std::string& target, const std::string& dtype, const std::string& value) {
    body_ += fmt::format("  {} = {}({})\n", target, dtype, value);
  }

  const std::vector<std::string> kReductions{"sum", "mean", "min", "max"};

  Random random_;
  Program out_;
  std::vector<std::string> axes_;
  Axes all_ = 0, walked_ = 0, segment_ = 0;
  bool reduces_ = false;
  std::vector<Operand> operands_;
  std::vector<Local> scalars_, locals_;
  std::string library_, body_;
};

double random_value(Random& random, DType dtype, bool special) {
  switch (dtype) {
    case DType::i32:
      return random.chance(5) ? (random.chance(50) ? 2147483647.0 : -2147483648.0)
                              : random.between(-12, 12);
    case DType::i8:
      return random.between(-128, 127);
    case DType::u8:
      return random.between(0, 255);
    case DType::i4:
      return random.between(-8, 7);
    default:
      break;
  }
  if (special && random.chance(10)) {
    static const std::vector<double> values{std::numeric_limits<double>::quiet_NaN(),
                                            std::numeric_limits<double>::infinity(),
                                            -std::numeric_limits<double>::infinity(),
                                            0.0,
                                            -0.0,
                                            0x1p-140,
                                            3e38};
    return random.pick(values);
  }
  // Half of them on a grid, so that comparisons find equals and rounding finds ties.
  return random.chance(50) ? random.between(-16, 16) * 0.25 : (random.uniform() - 0.5) * 6;
}

std::vector<std::string> tokens_of(const std::string& text) {
  std::vector<std::string> out;
  const auto is_word = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
  };
  for (std::size_t i = 0; i < text.size();) {
    std::size_t end = i + 1;
    if (is_word(text[i]))
      while (end < text.size() && is_word(text[end])) ++end;
    out.push_back(text.substr(i, end - i));
    i = end;
  }
  return out;
}

}  // namespace

Program generate_program(std::uint64_t seed) {
  Program out = Generator(seed).run();
  out.has_special_values = Random(seed + 77).chance(12);
  return out;
}

Case prepare(const Program& program, std::uint64_t seed) {
  return prepare(program, dsl::parse(program.text, "generated.qk").at(0), seed);
}

Case prepare(const Program& program, const dsl::Kernel& kernel, std::uint64_t seed) {
  Case out{kernel, {program.dtypes, {}}, {}, {}, {}};
  for (const std::string& axis : program.bound_axes)
    out.binding.extents[axis] = program.extents.at(axis);
  for (const dsl::ScalarInfo& scalar : out.kernel.scalars())
    out.scalars.push_back(program.scalars.at(scalar.name));
  for (const std::string& axis : out.kernel.axes()) out.extents.push_back(program.extents.at(axis));
  Random random(seed + 12345);
  for (std::size_t i = 0; i < out.kernel.operands().size(); ++i) {
    const dsl::OperandInfo& info = out.kernel.operands()[i];
    const DType dtype = info.dtype ? *info.dtype : program.dtypes.at(info.dtype_param);
    Tensor tensor(dtype, num_elements(out.kernel, i, out.extents));
    if (info.role == dsl::OperandInfo::Role::out)
      std::fill(tensor.bytes.begin(), tensor.bytes.end(), std::byte{0xff});
    else
      for (std::size_t k = 0; k < tensor.count; ++k)
        tensor.set(k, random_value(random, dtype, program.has_special_values));
    out.operands.push_back(std::move(tensor));
  }
  return out;
}

bool is_empty(const Case& of) {
  return std::find(of.extents.begin(), of.extents.end(), 0) != of.extents.end();
}

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

std::string damage(const std::string& text, std::uint64_t seed) {
  Random random(seed + 999);
  std::vector<std::string> tokens = tokens_of(text);
  const auto any = [&] {
    return static_cast<std::size_t>(random.below(static_cast<int>(tokens.size())));
  };
  const int faults = random.between(1, 3);
  for (int i = 0; i < faults && !tokens.empty(); ++i) {
    const std::size_t at = any();
    switch (random.below(5)) {
      case 0:
        tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(at));
        break;
      case 1:
        tokens.insert(tokens.begin() + static_cast<std::ptrdiff_t>(at), tokens[any()]);
        break;
      case 2:
        std::swap(tokens[at], tokens[any()]);
        break;
      case 3: {
        std::string& token = tokens[at];
        token[static_cast<std::size_t>(random.below(static_cast<int>(token.size())))] =
            static_cast<char>(random.below(256));
        break;
      }
      default:
        if (random.chance(20))
          tokens.resize(at);
        else
          tokens[at] = tokens[any()];
    }
  }
  std::string out;
  for (const std::string& token : tokens) out += token;
  return out;
}

}  // namespace quern::test
