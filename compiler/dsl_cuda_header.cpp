#include "compiler/dsl_cuda_header.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "compiler/dsl_cuda_text.h"

namespace quern::dsl {

std::string title(const Tree& tree, const Binding& binding) {
  std::string out = fmt::format("Kernel {} of Quern's kernel language", tree.name);
  for (const auto& param : tree.dtype_params)
    out += fmt::format(", {} = {}", param, quern::name(binding.dtypes.at(param)));
  for (const std::string& axis : tree.axes)
    if (const auto bound = binding.extents.find(axis); bound != binding.extents.end())
      out += fmt::format(", {} = {}", axis, bound->second);
  return out;
}

std::string args_struct(const Tree& tree, const Binding& binding, const std::string& name,
                        const std::set<int>& left_out, Helpers& helpers) {
  std::string out = fmt::format("struct {} {{\n", name);
  for (std::size_t i = 0; i < tree.operands.size(); ++i) {
    if (left_out.count(static_cast<int>(i))) continue;
    const OperandInfo& info = tree.operands[i];
    const DType dtype = resolve(tree, tree.operand_types[i], binding);
    helpers.need_type(dtype);
    out += fmt::format("  {}{}* {};  // {}[{}]\n",
                       info.role == OperandInfo::Role::in ? "const " : "",
                       dtype == DType::i4 ? "unsigned char" : type_name(dtype),
                       member_name(info.name), dtype == DType::i4 ? "pairs of i4, " : "",
                       fmt::join(info.axes, ", "));
  }
  for (const ScalarInfo& scalar : tree.scalars)
    out += fmt::format("  {} {};\n", type_name(scalar.dtype), member_name(scalar.name));
  for (const std::string& axis : tree.axes)
    out += fmt::format("  long long {};\n", member_name(axis));
  return out + "};\n\n";
}

}  // namespace quern::dsl
