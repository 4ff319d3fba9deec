#include "compiler/dsl_access.h"

#include <algorithm>

namespace quern::dsl {
namespace {

constexpr std::int64_t kMaxPartsBits = 128;  // of one position: beyond it, most of it goes unused

std::size_t at(int number) { return static_cast<std::size_t>(number); }

Access classify(const Tree& tree, int operand, const std::vector<std::int64_t>& picked,
                std::uint32_t gathered, bool gathers_along_last, const Binding& binding) {
  const auto& layout = tree.layouts[at(operand)];
  Access out;
  out.kind = Access::Kind::element;
  if (gathers_along_last) return out;
  std::int64_t parts = 1, part = 0;
  std::size_t d = layout.size(), pick = picked.size();
  while (d > 0 && layout[d - 1].axis < 0) {
    --d;
    part += parts * picked[--pick];
    parts *= layout[d].extent;
    if (parts > kMaxPartsBits) return out;
  }
  if (d == 0 || layout[d - 1].axis != tree.last_axis() || ((gathered >> (d - 1)) & 1u)) return out;
  const DType dtype = resolve(tree, tree.operand_types[at(operand)], binding);
  if (parts > 1 && parts * static_cast<std::int64_t>(size_bits(dtype)) > kMaxPartsBits) return out;
  out.kind = Access::Kind::vector;
  out.parts = static_cast<int>(parts);
  out.part = static_cast<int>(part);
  return out;
}

}  // namespace

Access access_of(const Tree& tree, const Node& load, const Binding& binding) {
  if (!tree.varies_along_last(load.axes)) return {};
  const bool gathers_along_last =
      std::any_of(load.args.begin(), load.args.end(), [&](int arg) {
        return arg >= 0 && tree.varies_along_last(tree.nodes[at(arg)].axes);
      });
  return classify(tree, load.index, load.picked, load.gathered, gathers_along_last, binding);
}

Access access_of(const Tree& tree, const Store& store, const Binding& binding) {
  if (!tree.varies_along_last(tree.axes_of(store.operand))) return {};
  return classify(tree, store.operand, store.picked, 0, false, binding);
}

std::size_t num_outer_picks(const Tree& tree, int operand) {
  const auto& layout = tree.layouts[at(operand)];
  auto fixed = static_cast<std::size_t>(std::count_if(
      layout.begin(), layout.end(), [](const Dimension& dimension) { return dimension.axis < 0; }));
  for (std::size_t d = layout.size(); d > 0 && layout[d - 1].axis < 0; --d) --fixed;
  return fixed;
}

bool same_vector(const Tree& tree, const Node& a, const Node& b) {
  if (a.index != b.index || a.gathered != b.gathered || a.args != b.args) return false;
  const auto outer = static_cast<std::ptrdiff_t>(num_outer_picks(tree, a.index));
  return std::equal(a.picked.begin(), a.picked.begin() + outer, b.picked.begin());
}

}  // namespace quern::dsl
