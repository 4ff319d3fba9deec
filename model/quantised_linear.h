#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "model/quantization.h"
#include "model/safetensors.h"

namespace quern {

/// The weight of one linear layer as an AWQ or GPTQ checkpoint stores it:
///
///   w[n, k] = (code[n, k] - zero[n, g]) * scale[n, g],   g = g_idx[k], or k / group_size without
///   it
///
/// with N = out_features, K = in_features, G = groups. Codes of `bits` bits lie in 32-bit words,
/// P = 32 / bits to a word, the first in the lowest bits:
///
///   AWQ   qweight [K, N / 8], qzeros [G, N / 8]: eight outputs to a word, in the order 0, 2, 4, 6,
///         1, 3, 5, 7.
///   GPTQ  qweight [K / P, N]: P inputs to a word; qzeros [G, N / P]: P outputs to a word. Both in
///         ascending order. The first checkpoint format stores zero - 1, modulo 2^bits.
///
/// scales are [G, N] in either. The spans live as long as the checkpoint.
struct QuantisedLinear {
  std::string name;  // of the module, for messages
  QuantMethod method = QuantMethod::awq;
  int bits = 4;
  std::int64_t out_features = 0, in_features = 0, group_size = 0;
  std::uint32_t zero_offset = 0;  // added to a stored zero point
  bool zero_points = true;        // false: every zero point has been found to be 2^(bits - 1)
  std::span<const std::uint32_t> qweight, qzeros;
  TensorView scales;                      // f16, bf16 or f32
  std::span<const std::int32_t> g_idx{};  // [K], each below G; empty where it is k / group_size

  std::int64_t num_groups() const { return in_features / group_size; }
  std::int64_t codes_per_word() const { return 32 / bits; }
  std::int64_t group(std::int64_t k) const {
    return g_idx.empty() ? k / group_size : g_idx[static_cast<std::size_t>(k)];
  }
  /// In [0, 2^bits).
  std::uint32_t code(std::int64_t n, std::int64_t k) const;
  std::uint32_t zero_point(std::int64_t n, std::int64_t g) const;
  float scale(std::int64_t n, std::int64_t g) const;
};

/// Finds a module's tensors and checks them: dtypes and shapes against the config, g_idx for groups
/// that do not exist, zero points of a symmetric checkpoint for being so. Throws InputError.
QuantisedLinear load_quantised_linear(const Checkpoint& file, const std::string& module,
                                      std::int64_t out_features, std::int64_t in_features,
                                      const Quantization& quantization);

/// Bit position of the c-th of eight outputs in a word of AWQ.
constexpr int awq_shift(std::int64_t c) { return static_cast<int>(4 * (c % 2 * 4 + c / 2)); }

}  // namespace quern
