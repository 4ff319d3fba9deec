#include "compiler/dsl.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "compiler/dsl_check.h"
#include "compiler/dsl_parser.h"
#include "compiler/dsl_tree.h"
#include "runtime/base/error.h"

namespace quern::dsl {
namespace {

constexpr std::size_t kMaxFileBytes = 1 << 20;

}  // namespace

const std::string& Kernel::name() const { return tree_->name; }
const std::vector<OperandInfo>& Kernel::operands() const { return tree_->operands; }
const std::vector<ScalarInfo>& Kernel::scalars() const { return tree_->scalars; }
const std::vector<std::string>& Kernel::dtype_params() const { return tree_->dtype_params; }
const std::vector<std::string>& Kernel::axes() const { return tree_->axes; }

bool Kernel::has_reduction() const {
  return std::any_of(tree_->nodes.begin(), tree_->nodes.end(),
                     [](const Node& node) { return is_reduction(node.op); });
}

int Kernel::operations_per_element() const {
  const auto counts = [&](const Node& node) {
    return is_reduction(node.op) || (node.op > Op::load && tree_->varies_along_last(node.axes));
  };
  return static_cast<int>(std::count_if(tree_->nodes.begin(), tree_->nodes.end(), counts));
}

bool is_operand_dtype(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 ||
         dtype == DType::i32 || dtype == DType::i8 || dtype == DType::u8;
}

DType resolve(const Tree& tree, const Type& type, const Binding& binding) {
  if (type.param < 0) return type.dtype;
  const std::string& param = tree.dtype_params[static_cast<std::size_t>(type.param)];
  const auto found = binding.dtypes.find(param);
  const auto fail = [&](const std::string& sentence) {
    throw CompileError(sentence, sentence, {}, kExitInput);
  };
  if (found == binding.dtypes.end())
    fail(fmt::format("kernel {} needs a dtype for {}", tree.name, param));
  if (!is_operand_dtype(found->second))
    fail(
        fmt::format("kernel {} cannot have {} = {}", tree.name, param, quern::name(found->second)));
  return found->second;
}

std::vector<Kernel> parse(std::string_view text, std::string_view file_name) {
  if (text.size() > kMaxFileBytes) {
    const std::string sentence = "a kernel file has at most 1 MiB";
    throw CompileError(sentence, sentence, {}, kExitInput);
  }
  Diagnostics diagnostics(text, file_name);
  std::vector<Kernel> kernels;
  std::set<std::string_view> names;
  for (const ast::Kernel& source : parse_kernels(diagnostics)) {
    if (!names.insert(source.name).second)
      diagnostics.error(source.name, fmt::format("kernel `{}` is defined twice", source.name));
    if (auto tree = check_kernel(source, diagnostics)) kernels.emplace_back(std::move(tree));
    if (diagnostics.full()) break;
  }
  if (!diagnostics.failed() && kernels.empty())
    diagnostics.error(diagnostics.text().substr(0, 0), "this file has no kernel");
  if (diagnostics.failed()) diagnostics.fail();
  return kernels;
}

}  // namespace quern::dsl
