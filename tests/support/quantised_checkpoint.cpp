#include "tests/support/quantised_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "model/config.h"
#include "runtime/base/file.h"
#include "runtime/base/half.h"
#include "runtime/base/json.h"

namespace quern::test {
namespace {

std::size_t at(std::int64_t row, std::int64_t cols, std::int64_t col) {
  return static_cast<std::size_t>(row * cols + col);
}

/// Which of a word's eight places, the lowest first, holds which of eight outputs in AWQ.
constexpr std::int64_t kAwqOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

/// Packs rows of values, `per_word` of a row to a word; place i takes the value order[i].
template <class VALUE>
std::vector<std::uint32_t> pack_rows(std::int64_t rows, std::int64_t cols, int bits, bool awq,
                                     const VALUE& value) {
  const std::int64_t per_word = 32 / bits;
  std::vector<std::uint32_t> words;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; c += per_word) {
      std::uint32_t word = 0;
      for (std::int64_t i = 0; i < per_word; ++i)
        word |= value(r, c + (awq ? kAwqOrder[i] : i)) << (i * bits);
      words.push_back(word);
    }
  return words;
}

/// Packs columns of values, `per_word` of a column to a word.
std::vector<std::uint32_t> pack_inputs(const PlainQuantised& plain) {
  const std::int64_t per_word = 32 / plain.bits;
  std::vector<std::uint32_t> words;
  for (std::int64_t k = 0; k < plain.in_features; k += per_word)
    for (std::int64_t n = 0; n < plain.out_features; ++n) {
      std::uint32_t word = 0;
      for (std::int64_t i = 0; i < per_word; ++i)
        word |= plain.codes[at(n, plain.in_features, k + i)] << (i * plain.bits);
      words.push_back(word);
    }
  return words;
}

PlainQuantised empty(std::int64_t out, std::int64_t in, const Quantization& quantization) {
  PlainQuantised plain;
  plain.out_features = out;
  plain.in_features = in;
  plain.num_groups = in / quantization.inputs_per_group(in);
  plain.bits = quantization.bits;
  plain.codes.resize(at(out, in, 0));
  plain.zeros.assign(at(out, plain.num_groups, 0), 1u << (quantization.bits - 1));
  plain.scales.resize(plain.zeros.size());
  for (std::int64_t k = 0; k < in; ++k)
    plain.groups.push_back(static_cast<std::int32_t>(k / quantization.inputs_per_group(in)));
  return plain;
}

}  // namespace

float PlainQuantised::weight(std::int64_t n, std::int64_t k) const {
  const std::size_t group = at(n, num_groups, groups[static_cast<std::size_t>(k)]);
  return (static_cast<float>(codes[at(n, in_features, k)]) - static_cast<float>(zeros[group])) *
         f16_to_f32(scales[group]);
}

PlainQuantised random_quantised(std::int64_t out, std::int64_t in, const Quantization& quantization,
                                unsigned seed) {
  PlainQuantised plain = empty(out, in, quantization);
  std::mt19937 engine(seed);
  std::uniform_int_distribution<std::uint32_t> any_code(0, (1u << plain.bits) - 1);
  std::uniform_real_distribution<float> any_scale(0.5f, 1.5f);
  for (std::uint32_t& code : plain.codes) code = any_code(engine);
  if (quantization.zero_points)
    for (std::uint32_t& zero : plain.zeros) zero = any_code(engine);
  for (std::uint16_t& scale : plain.scales)
    scale = f32_to_f16(any_scale(engine) / static_cast<float>(1 << plain.bits));
  if (quantization.act_order) std::shuffle(plain.groups.begin(), plain.groups.end(), engine);
  return plain;
}

PlainQuantised round_to_nearest(const std::vector<float>& weight, std::int64_t out, std::int64_t in,
                                const Quantization& quantization, unsigned seed) {
  PlainQuantised plain = empty(out, in, quantization);
  std::mt19937 engine(seed);
  if (quantization.act_order) std::shuffle(plain.groups.begin(), plain.groups.end(), engine);
  const auto top = static_cast<float>((1 << plain.bits) - 1);
  for (std::int64_t n = 0; n < out; ++n) {
    std::vector<float> low(static_cast<std::size_t>(plain.num_groups)), high = low;
    const auto group_of = [&](std::int64_t k) {
      return static_cast<std::size_t>(plain.groups[static_cast<std::size_t>(k)]);
    };
    for (std::int64_t k = 0; k < in; ++k) {
      low[group_of(k)] = std::min(low[group_of(k)], weight[at(n, in, k)]);
      high[group_of(k)] = std::max(high[group_of(k)], weight[at(n, in, k)]);
    }
    for (std::int64_t g = 0; g < plain.num_groups; ++g) {
      const auto group = static_cast<std::size_t>(g);
      const std::size_t entry = at(n, plain.num_groups, g);
      const float range = quantization.zero_points ? high[group] - low[group]
                                                   : 2 * std::max(high[group], -low[group]);
      plain.scales[entry] = f32_to_f16(std::max(range / top, 1e-5f));
      if (quantization.zero_points)
        plain.zeros[entry] = static_cast<std::uint32_t>(
            std::clamp(std::round(-low[group] / f16_to_f32(plain.scales[entry])), 0.0f, top));
    }
    for (std::int64_t k = 0; k < in; ++k) {
      const std::size_t entry = at(n, plain.num_groups, plain.groups[static_cast<std::size_t>(k)]);
      const float code = std::round(weight[at(n, in, k)] / f16_to_f32(plain.scales[entry])) +
                         static_cast<float>(plain.zeros[entry]);
      plain.codes[at(n, in, k)] = static_cast<std::uint32_t>(std::clamp(code, 0.0f, top));
    }
  }
  return plain;
}

void CheckpointWriter::add(const std::string& name, DType dtype, std::vector<std::int64_t> shape,
                           const void* elements) {
  std::size_t count = 1;
  for (const std::int64_t extent : shape) count *= static_cast<std::size_t>(extent);
  std::vector<std::byte> bytes(bytes_for(dtype, count));
  std::memcpy(bytes.data(), elements, bytes.size());
  tensors_.push_back({name, dtype, std::move(shape), std::move(bytes)});
}

void CheckpointWriter::add(const std::string& module, const PlainQuantised& plain,
                           const Quantization& quantization) {
  const std::int64_t n = plain.out_features, k = plain.in_features, g = plain.num_groups;
  const std::int64_t per_word = 32 / plain.bits;
  const bool awq = quantization.method == QuantMethod::awq;
  const std::uint32_t mask = (1u << plain.bits) - 1, offset = quantization.zeros_minus_one ? 1 : 0;
  const auto qweight = awq ? pack_rows(k, n, plain.bits, true,
                                       [&](std::int64_t row, std::int64_t col) {
                                         return plain.codes[at(col, k, row)];
                                       })
                           : pack_inputs(plain);
  add(module + ".qweight", DType::i32,
      awq ? std::vector{k, n / per_word} : std::vector{k / per_word, n}, qweight.data());
  const auto qzeros = pack_rows(g, n, plain.bits, awq, [&](std::int64_t row, std::int64_t col) {
    return (plain.zeros[at(col, g, row)] - offset) & mask;
  });
  add(module + ".qzeros", DType::i32, {g, n / per_word}, qzeros.data());
  std::vector<std::uint16_t> scales;
  for (std::int64_t row = 0; row < g; ++row)
    for (std::int64_t col = 0; col < n; ++col) scales.push_back(plain.scales[at(col, g, row)]);
  add(module + ".scales", DType::f16, {g, n}, scales.data());
  if (!awq) add(module + ".g_idx", DType::i32, {k}, plain.groups.data());
}

void CheckpointWriter::remove(const std::string& name) {
  std::erase_if(tensors_, [&](const Tensor& tensor) { return tensor.name == name; });
}

void CheckpointWriter::write(const std::filesystem::path& path) const {
  std::vector<TensorView> views;
  for (const Tensor& tensor : tensors_)
    views.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.elements});
  write_safetensors(path, views);
}

void write_quantised_model(const std::filesystem::path& original,
                           const std::filesystem::path& folder, const Quantization& quantization,
                           bool own_orders) {
  std::filesystem::create_directories(folder);
  for (const char* name : {"generation_config.json", "tokenizer.json", "tokenizer_config.json"})
    if (std::filesystem::exists(original / name))
      std::filesystem::copy_file(original / name, folder / name);
  json config = json::parse(read_file(original / "config.json"));
  const bool awq = quantization.method == QuantMethod::awq;
  config["quantization_config"] = {{"quant_method", awq ? "awq" : "gptq"},
                                   {"bits", quantization.bits},
                                   {"group_size", quantization.group_size}};
  if (!awq) {
    config["quantization_config"]["sym"] = !quantization.zero_points;
    config["quantization_config"]["desc_act"] = quantization.act_order;
    config["quantization_config"]["checkpoint_format"] =
        quantization.zeros_minus_one ? "gptq" : "gptq_v2";
  }
  write_file_atomically(folder / "config.json", config.dump(1));
  const Checkpoint source(original);
  CheckpointWriter out;
  unsigned projections = 0;
  for (const auto& [name, view] : source.tensors()) {
    const bool projection = name.find("_proj.weight") != name.npos;
    if (!projection) {
      out.add(name, view.dtype, view.shape, view.data.data());
      continue;
    }
    std::vector<float> weight(view.num_elements());
    for (std::size_t i = 0; i < weight.size(); ++i)
      weight[i] = view.dtype == DType::f32    ? view.as<float>()[i]
                  : view.dtype == DType::bf16 ? bf16_to_f32(view.as<std::uint16_t>()[i])
                                              : f16_to_f32(view.as<std::uint16_t>()[i]);
    out.add(name.substr(0, name.size() - std::string(".weight").size()),
            round_to_nearest(weight, view.shape[0], view.shape[1], quantization,
                             own_orders ? ++projections : 0),
            quantization);
  }
  out.write(folder / "model.safetensors");
}

}  // namespace quern::test
