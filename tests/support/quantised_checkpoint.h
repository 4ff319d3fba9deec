#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/quantization.h"
#include "model/safetensors.h"

namespace quern::test {

/// A quantised projection in the clear, from which checkpoints are written and which says what they
/// must mean: w[n, k] = (codes[n, k] - zeros[n, g]) * scales[n, g] with g = groups[k].
struct PlainQuantised {
  std::int64_t out_features = 0, in_features = 0, num_groups = 0;
  int bits = 4;
  std::vector<std::uint32_t> codes;   // [out, in]
  std::vector<std::uint32_t> zeros;   // [out, num_groups]
  std::vector<std::uint16_t> scales;  // [out, num_groups], f16
  std::vector<std::int32_t> groups;   // [in]

  float weight(std::int64_t n, std::int64_t k) const;
};

/// Random codes, scales, and zero points where the quantization has them; with act_order the inputs
/// are dealt out to the groups at random.
PlainQuantised random_quantised(std::int64_t out, std::int64_t in, const Quantization& quantization,
                                unsigned seed);

/// Rounds a dense weight [out, in] to the nearest code, group by group; with act_order the seed
/// says how inputs are dealt out to the groups.
PlainQuantised round_to_nearest(const std::vector<float>& weight, std::int64_t out, std::int64_t in,
                                const Quantization& quantization, unsigned seed = 0);

/// The tensors of a checkpoint under construction, with their elements.
class CheckpointWriter {
 public:
  void add(const std::string& name, DType dtype, std::vector<std::int64_t> shape,
           const void* elements);
  /// Adds qweight, qzeros, scales and, for GPTQ, g_idx of a module.
  void add(const std::string& module, const PlainQuantised& plain,
           const Quantization& quantization);
  void remove(const std::string& name);
  void write(const std::filesystem::path& path) const;

 private:
  struct Tensor {
    std::string name;
    DType dtype;
    std::vector<std::int64_t> shape;
    std::vector<std::byte> elements;
  };
  std::vector<Tensor> tensors_;
};

/// Writes a copy of a folder's model whose projections are rounded to codes, with a config that
/// says so; tokenizer and generation settings are copied. With own_orders, act_order deals the
/// inputs of every projection in a way of its own, which real checkpoints do not do within q, k and
/// v.
void write_quantised_model(const std::filesystem::path& original,
                           const std::filesystem::path& folder, const Quantization& quantization,
                           bool own_orders = false);

}  // namespace quern::test
