#include "autotune/gemm_epilogue.h"

#include <fmt/format.h>

#include "runtime/base/error.h"

namespace quern {

GemmEpilogue::GemmEpilogue(dsl::Kernel kernel)
    : kernel_(std::move(kernel)), traits_(row_traits(kernel_)) {
  const auto wrong = [&](const std::string& what) {
    throw InputError(
        fmt::format("kernel {} is no epilogue of a product: {}", kernel_.name(), what));
  };
  if (kernel_.has_reduction()) wrong("it has reductions");
  if (kernel_.num_iterated_axes() != 2 || kernel_.axes().size() != 2)
    wrong("it should have two axes, of rows and of columns");
  const dsl::OperandInfo& acc = kernel_.operands().front();
  if (acc.name != "acc" || acc.role != dsl::OperandInfo::Role::in || acc.dtype != DType::f32)
    wrong("its first operand should be acc: f32[rows, cols]");
  parts_ = acc.axes.size() == 3 ? 2 : 1;
  std::vector<std::string> wanted{rows(), cols()};
  if (parts_ == 2) wanted.push_back("2");
  if (acc.axes != wanted)
    wrong(fmt::format("acc should have axes {0}, {1} or {0}, {1}, 2", rows(), cols()));
  for (std::size_t i = 1; i < kernel_.operands().size(); ++i) {
    operands_.push_back(static_cast<int>(i));
    if (kernel_.operands()[i].dtype == DType::i4) wrong("it has operands of i4");
  }
}

DType GemmEpilogue::dtype(int operand, const dsl::Binding& binding) const {
  const dsl::OperandInfo& info = kernel_.operands()[static_cast<std::size_t>(operand)];
  return info.dtype ? *info.dtype : binding.dtypes.at(info.dtype_param);
}

std::optional<int> GemmEpilogue::output_for_kernel(const dsl::Binding& binding) const {
  const std::vector<std::string> all{rows(), cols()};
  std::optional<int> out;
  for (const int i : operands_) {
    const dsl::OperandInfo& info = kernel_.operands()[static_cast<std::size_t>(i)];
    if (info.role == dsl::OperandInfo::Role::in) {
      if (info.axes.size() >= 2) return std::nullopt;
    } else {
      if (info.role == dsl::OperandInfo::Role::inout || out || info.axes != all)
        return std::nullopt;
      out = i;
    }
  }
  if (!out) return std::nullopt;
  const dsl::OperandInfo& y = kernel_.operands()[static_cast<std::size_t>(*out)];
  const DType dtype = this->dtype(*out, binding);
  if (dtype != DType::bf16 && dtype != DType::f16 && dtype != DType::f32) return std::nullopt;
  // It is bound to f32 then, so that its dtype must be no other operand's.
  if (y.dtype) return *y.dtype == DType::f32 ? out : std::nullopt;
  for (const int i : operands_)
    if (i != *out && kernel_.operands()[static_cast<std::size_t>(i)].dtype_param == y.dtype_param)
      return std::nullopt;
  return out;
}

dsl::Fragment GemmEpilogue::fragment(std::optional<int> output) const {
  dsl::Fragment out{.input = "acc"};
  if (output) out.output = kernel_.operands()[static_cast<std::size_t>(*output)].name;
  out.whole = true;
  return out;
}

std::string GemmEpilogue::source(const dsl::Binding& binding, std::optional<int> output) const {
  dsl::Binding bound = binding;
  if (output) {
    const dsl::OperandInfo& y = kernel_.operands()[static_cast<std::size_t>(*output)];
    if (!y.dtype) bound.dtypes[y.dtype_param] = DType::f32;
  }
  return dsl::emit_fragment(kernel_, bound, fragment(output));
}

std::vector<std::byte> GemmEpilogue::args(std::optional<int> output,
                                          const std::vector<std::uint64_t>& addresses,
                                          const std::map<std::string, double>& scalars,
                                          std::int64_t rows, std::int64_t cols) const {
  std::vector<std::uint64_t> passed;
  for (std::size_t i = 0; i < operands_.size(); ++i)
    if (operands_[i] != output) passed.push_back(addresses.at(i));
  return dsl::fragment_args(kernel_, fragment(output), passed, scalars,
                            {{this->rows(), rows}, {this->cols(), cols}});
}

}  // namespace quern
