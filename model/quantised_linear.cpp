#include "model/quantised_linear.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/base/half.h"

namespace quern {
namespace {

void check_shape(const TensorView& view, const std::vector<std::int64_t>& shape) {
  if (view.shape != shape)
    throw InputError(fmt::format("tensor \"{}\" is [{}], but the config makes it [{}]", view.name,
                                 fmt::join(view.shape, ", "), fmt::join(shape, ", ")));
}

const TensorView& take_words(const Checkpoint& file, const std::string& tensor,
                             const std::vector<std::int64_t>& shape) {
  const TensorView& view = file.at(tensor);
  check_shape(view, shape);
  if (view.dtype != DType::i32)
    throw InputError(fmt::format("tensor \"{}\" has elements of type {}, but packed codes are i32",
                                 tensor, name(view.dtype)));
  return view;
}

std::span<const std::uint32_t> words(const TensorView& view) { return view.as<std::uint32_t>(); }

/// Some writers store a bias of zeros beside every projection.
void refuse_bias(const Checkpoint& file, const std::string& module) {
  const std::string tensor = module + ".bias";
  if (!file.contains(tensor)) return;
  const auto bytes = file.at(tensor).data;
  if (std::ranges::any_of(bytes, [](std::byte b) { return b != std::byte{0}; }))
    throw InputError(
        fmt::format("tensor \"{}\" is not zero, but biases are not supported", tensor));
}

/// Which group each input is in; empty where groups are consecutive inputs.
std::span<const std::int32_t> take_groups(const Checkpoint& file, const std::string& module,
                                          const QuantisedLinear& linear, bool required) {
  const std::string tensor = module + ".g_idx";
  if (!required && !file.contains(tensor)) return {};
  const auto groups = take_words(file, tensor, {linear.in_features}).as<std::int32_t>();
  bool consecutive = true;
  for (std::size_t k = 0; k < groups.size(); ++k) {
    if (groups[k] < 0 || groups[k] >= linear.num_groups())
      throw InputError(fmt::format("tensor \"{}\" puts input {} into group {}, but there are {}",
                                   tensor, k, groups[k], linear.num_groups()));
    consecutive &= groups[k] == static_cast<std::int64_t>(k) / linear.group_size;
  }
  return consecutive ? std::span<const std::int32_t>() : groups;
}

/// Kernels without zero points assume the middle code; a word of zero points is checked at a time.
void check_symmetric(const QuantisedLinear& linear) {
  const std::uint32_t middle = 1u << (linear.bits - 1);
  const std::uint32_t stored = middle - linear.zero_offset;
  std::uint32_t word = 0;
  for (int bit = 0; bit < 32; bit += linear.bits) word |= stored << bit;
  if (std::ranges::any_of(linear.qzeros, [&](std::uint32_t w) { return w != word; }))
    throw InputError(fmt::format(
        "tensor \"{}.qzeros\" has zero points other than {}, but the config says \"sym\"",
        linear.name, middle));
}

}  // namespace

std::uint32_t QuantisedLinear::code(std::int64_t n, std::int64_t k) const {
  const std::uint32_t mask = (1u << bits) - 1;
  if (method == QuantMethod::awq)
    return qweight[static_cast<std::size_t>((k * out_features + n) / 8)] >> awq_shift(n % 8) & mask;
  const std::int64_t per_word = codes_per_word();
  return qweight[static_cast<std::size_t>(k / per_word * out_features + n)] >>
             (k % per_word * bits) &
         mask;
}

std::uint32_t QuantisedLinear::zero_point(std::int64_t n, std::int64_t g) const {
  const std::uint32_t mask = (1u << bits) - 1;
  const std::int64_t per_word = codes_per_word();
  const std::uint32_t word = qzeros[static_cast<std::size_t>((g * out_features + n) / per_word)];
  const auto shift = method == QuantMethod::awq ? awq_shift(n % 8) : n % per_word * bits;
  return ((word >> shift & mask) + zero_offset) & mask;
}

float QuantisedLinear::scale(std::int64_t n, std::int64_t g) const {
  const auto i = static_cast<std::size_t>(g * out_features + n);
  if (scales.dtype == DType::f32) return scales.as<float>()[i];
  const std::uint16_t bits16 = scales.as<std::uint16_t>()[i];
  return scales.dtype == DType::bf16 ? bf16_to_f32(bits16) : f16_to_f32(bits16);
}

QuantisedLinear load_quantised_linear(const Checkpoint& file, const std::string& module,
                                      std::int64_t out_features, std::int64_t in_features,
                                      const Quantization& quantization) {
  QuantisedLinear out;
  out.name = module;
  out.method = quantization.method;
  out.bits = quantization.bits;
  out.out_features = out_features;
  out.in_features = in_features;
  out.group_size = quantization.inputs_per_group(in_features);
  out.zero_offset = quantization.zeros_minus_one ? 1 : 0;
  out.zero_points = quantization.zero_points;
  if (in_features % out.group_size != 0)
    throw InputError(fmt::format("\"{}\" has {} inputs, which is not a multiple of the group of {}",
                                 module, in_features, out.group_size));
  const std::int64_t per_word = out.codes_per_word(), groups = out.num_groups();
  if (out_features % per_word != 0 || in_features % per_word != 0)
    throw InputError(
        fmt::format("\"{}\" is [{}, {}], which does not pack into words of {} codes of {} bits",
                    module, out_features, in_features, per_word, out.bits));
  refuse_bias(file, module);
  out.qweight = words(take_words(file, module + ".qweight",
                                 out.method == QuantMethod::awq
                                     ? std::vector{in_features, out_features / per_word}
                                     : std::vector{in_features / per_word, out_features}));
  out.qzeros = words(take_words(file, module + ".qzeros", {groups, out_features / per_word}));
  out.scales = file.at(module + ".scales");
  check_shape(out.scales, {groups, out_features});
  if (out.scales.dtype != DType::f32 && out.scales.dtype != DType::f16 &&
      out.scales.dtype != DType::bf16)
    throw InputError(
        fmt::format("tensor \"{}\" has elements of type {}, which is not f32, f16 or bf16",
                    out.scales.name, name(out.scales.dtype)));
  if (out.method == QuantMethod::gptq)
    out.g_idx = take_groups(file, module, out, quantization.act_order);
  if (!out.zero_points) check_symmetric(out);
  return out;
}

}  // namespace quern
