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

int Kernel::num_iterated_axes() const { return tree_->num_iterated; }

std::vector<std::string> Kernel::row_axes() const {
  std::vector<std::string> out;
  for (int axis = 0; axis < tree_->num_iterated; ++axis)
    if ((tree_->leading() >> axis) & 1u) out.push_back(axes()[static_cast<std::size_t>(axis)]);
  return out;
}

bool Kernel::has_reduction() const { return tree_->reduces; }

int Kernel::operations_per_element() const {
  int count = 0;
  for (std::size_t n = 0; n < tree_->nodes.size(); ++n)
    count += is_reduction(tree_->nodes[n].op) ||
             (tree_->nodes[n].op >= Op::cast && tree_->levels[n] == Level::element);
  return count;
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
  if (!is_operand_dtype(found->second) || found->second == DType::i4)
    fail(
        fmt::format("kernel {} cannot have {} = {}", tree.name, param, quern::name(found->second)));
  return found->second;
}

Includes includes_from(const std::map<std::string, std::string, std::less<>>& files,
                       const std::string& folder) {
  return [&files, folder](const std::string& name) -> std::optional<std::string> {
    const auto found = files.find(folder + "/" + name);
    if (found == files.end()) return std::nullopt;
    return found->second;
  };
}

std::vector<Kernel> parse(std::string_view text, std::string_view file_name,
                          const Includes& includes) {
  // Used files count as well, so that no chain of them is endless.
  std::size_t bytes = text.size();
  const auto check_size = [&] {
    if (bytes <= kMaxFileBytes) return;
    const std::string sentence = "a kernel file has at most 1 MiB, with the files that it uses";
    throw CompileError(sentence, sentence, {}, kExitInput);
  };
  check_size();
  const Includes counted = [&](const std::string& name) {
    auto out = includes ? includes(name) : std::optional<std::string>();
    if (out) bytes += out->size();
    check_size();
    return out;
  };
  Diagnostics diagnostics;
  const std::string_view kept = diagnostics.add_file(text, file_name);
  ast::File file = parse_file(diagnostics, kept);
  const bool defines = !file.lets.empty() || !file.reductions.empty();
  Library library(diagnostics);
  library.add(file, counted);
  std::vector<Kernel> kernels;
  std::set<std::string_view> names;
  for (const ast::Kernel& source : file.kernels) {
    if (!names.insert(source.name).second)
      diagnostics.error(source.name, fmt::format("kernel `{}` is defined twice", source.name));
    if (auto tree = check_kernel(source, library, diagnostics))
      kernels.emplace_back(std::move(tree));
    if (diagnostics.full()) break;
  }
  if (!diagnostics.failed() && kernels.empty() && !defines)
    diagnostics.error(kept.substr(0, 0), "this file has no kernel");
  if (diagnostics.failed()) diagnostics.fail();
  return kernels;
}

}  // namespace quern::dsl
