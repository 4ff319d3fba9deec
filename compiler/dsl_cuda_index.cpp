#include "compiler/dsl_cuda_index.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cassert>

#include "compiler/dsl_schedule.h"

namespace quern::dsl {
namespace {

bool has(AxisSet set, int axis) { return axis >= 0 && ((set >> axis) & 1u); }
int count(AxisSet set) { return __builtin_popcount(set); }
/// The axes of the set that lie further in than `axis`.
AxisSet inside(AxisSet set, int axis) { return set & ~((2u << axis) - 1); }

}  // namespace

CudaIndices::CudaIndices(const Tree& tree, const Binding& binding, Names& names)
    : tree_(tree), binding_(binding), names_(names) {
  for (const std::string& axis : tree.axes) extents_.push_back(names.take(axis));
}

void CudaIndices::add(AxisSet axes, const std::string& name, const std::string& of) {
  if (axes != 0) variables_.push_back({axes, name, of});
}

Code CudaIndices::extent(AxisSet axes) const {
  std::vector<std::string> out;
  for (std::size_t axis = 0; axis < extents_.size(); ++axis)
    if (has(axes, static_cast<int>(axis))) out.push_back(extents_[axis]);
  if (out.empty()) return {"1", Code::primary};
  return {fmt::format("{}", fmt::join(out, " * ")), out.size() > 1 ? Code::product : Code::primary};
}

bool CudaIndices::is_int(AxisSet axes) const {
  const std::int64_t elements = bound_extent(tree_, binding_, axes);
  return !all_wide_ && (axes & tree_.leading()) == 0 && elements > 0 &&
         elements < (std::int64_t{1} << 30);
}

std::string CudaIndices::type(AxisSet axes) const { return is_int(axes) ? "int" : "long long"; }

Code CudaIndices::variable(const Variable& variable, const std::string& along_last) const {
  if (along_last.empty() || !has(variable.axes, tree_.last_axis())) return {variable.name};
  return {variable.name + " + " + along_last, Code::sum};
}

/// Position along the axes of a part of `from`'s: "col / 64 % 12".
std::string CudaIndices::derived(const Variable& from, AxisSet axes) const {
  const auto number = [&](AxisSet set) {
    return is_int(from.axes) ? std::to_string(bound_extent(tree_, binding_, set))
                             : extent(set).at_least(Code::unary);
  };
  int innermost = 31 - __builtin_clz(axes), outermost = __builtin_ctz(axes);
  std::string out = from.name;
  if (const AxisSet further_in = inside(from.axes, innermost)) out += " / " + number(further_in);
  if (from.axes & ((1u << outermost) - 1)) out += " % " + number(axes);
  return out;
}

Code CudaIndices::axis_position(int axis, const std::string& along_last) {
  // The variable that counts along the fewest axes.
  const Variable* best = nullptr;
  for (const Variable& variable : variables_)
    if (has(variable.axes, axis) && variable.of.empty() &&
        (!best || count(variable.axes) < count(best->axes)))
      best = &variable;
  assert(best);
  if (count(best->axes) == 1) return variable(*best, along_last);
  std::string& name = axis_names_[axis];
  if (name.empty()) name = names_.take(tree_.axes[at(axis)] + "_index");
  return variable({1u << axis, name, best->name}, along_last);
}

Code CudaIndices::position(AxisSet axes, const std::string& along_last) {
  std::vector<Dimension> layout;
  for (int axis = 0; axis < tree_.num_iterated; ++axis)
    if (has(axes, axis)) layout.push_back({axis, 0});
  return offset(layout, 0, {}, {}, along_last);
}

Code CudaIndices::position_i32(AxisSet axes, const std::string& along_last) {
  Code out = position(axes, along_last);
  // A variable that counts along more axes decides the type.
  const bool is_int_variable =
      std::any_of(variables_.begin(), variables_.end(), [&](const Variable& variable) {
        return variable.of.empty() && (axes & ~variable.axes) == 0 && is_int(variable.axes);
      });
  if (!is_int_variable || out.text.find('*') != std::string::npos)
    out = {fmt::format("static_cast<int>({})", out.text)};
  return out;
}

Code CudaIndices::offset(const std::vector<Dimension>& layout, std::uint32_t gathered,
                         const std::vector<std::string>& gathers,
                         const std::vector<std::int64_t>& places, const std::string& along_last) {
  Code out{"", Code::primary};
  bool wide = false;  // the text is of 64 bits already
  std::size_t gather = 0, place = 0;
  for (std::size_t d = 0; d < layout.size(); ++d) {
    Code index, size;
    bool size_is_wide = true;
    const auto is_gathered = [&](std::size_t i) { return ((gathered >> i) & 1u) != 0; };
    if (layout[d].axis < 0) {
      index = {std::to_string(places[place++])};
      size = {std::to_string(layout[d].extent)};
      size_is_wide = false;
    } else if (is_gathered(d)) {
      index = {gathers[gather++]};
      size = {extent(layout[d].axis)};
    } else {
      // The variable that counts along most of the axes that follow.
      const Variable* best = nullptr;
      for (const Variable& variable : variables_) {
        AxisSet rest = variable.axes;
        std::size_t i = d;
        for (; rest != 0 && i < layout.size() && !is_gathered(i) && has(rest, layout[i].axis) &&
               (rest & ((1u << layout[i].axis) - 1)) == 0;
             ++i)
          rest &= ~(1u << layout[i].axis);
        if (rest == 0 && (!best || count(variable.axes) > count(best->axes))) best = &variable;
      }
      AxisSet axes = 1u << layout[d].axis;
      if (best) {
        axes = best->axes;
        index = variable(*best, along_last);
        wide = wide || (out.text.empty() && !is_int(axes));
        d += static_cast<std::size_t>(count(axes)) - 1;
      } else {
        index = axis_position(layout[d].axis, along_last);
      }
      size = extent(axes);
    }
    if (out.text.empty()) {
      out = index;
    } else {
      const std::string scaled = fmt::format("{} * {}{}", out.at_least(Code::product), size.text,
                                             wide || size_is_wide ? "" : "ll");
      wide = true;
      out = index.text == "0" ? Code{scaled, Code::product}
                              : Code{scaled + " + " + index.at_least(Code::sum), Code::sum};
    }
  }
  if (out.text.empty()) out.text = "0";
  return out;
}

void CudaIndices::declare(Text& text, std::size_t mark, const std::string& of) const {
  const Variable* from = nullptr;
  for (const Variable& variable : variables_)
    if (variable.name == of) from = &variable;
  if (!from) return;
  const std::string type_text = type(from->axes);
  const auto one = [&](const std::string& name, AxisSet axes) {
    if (mentions(text.since(mark), name))
      text.insert(mark, fmt::format("const {} {} = {};", type_text, name, derived(*from, axes)));
  };
  for (auto axis = axis_names_.rbegin(); axis != axis_names_.rend(); ++axis)
    if (has(from->axes, axis->first)) one(axis->second, 1u << axis->first);
  for (auto variable = variables_.rbegin(); variable != variables_.rend(); ++variable)
    if (variable->of == of) one(variable->name, variable->axes);
}

void CudaIndices::declare_extents(Text& text, std::size_t mark) const {
  for (std::size_t i = extents_.size(); i-- > 0;) {
    if (!mentions(text.since(mark), extents_[i])) continue;
    const auto bound = binding_.extents.find(tree_.axes[i]);
    text.insert(mark, bound != binding_.extents.end()
                          ? fmt::format("constexpr long long {} = {};", extents_[i], bound->second)
                          : fmt::format("const long long {} = args.{};", extents_[i],
                                        member_name(tree_.axes[i])));
  }
}

}  // namespace quern::dsl
