#pragma once
#include <string>
#include <vector>

#include "autotune/in_turns.h"
#include "autotune/kernel_library.h"
#include "autotune/tuner.h"

namespace quern {

/// A product of a model's layer: y[rows, n] = x[rows, k] · w[n, k]ᵀ.
struct Product {
  std::string name;  // "gate_up"
  int n = 0, k = 0;
};

/// A product as our kernels compute it, beside what it is to be held against in the same run.
struct ProductResult {
  std::string name, family;
  Params problem;
  Params config;  // the best of our own kernels, whatever won the race
  Timing timing;  // cold L2, graph replays (autotune/meter.h)
  Cost cost;
  /// The best of cuBLASLt's algorithms for the same problem, where it has one.
  Params library_config;
  Timing library;
  /// The best of cuBLASLt's algorithms where it is asked for less
  /// (templates/utility/library_product.h): unscaled sums of integers, and sums of e4m3 that are
  /// not promoted.
  Params quick_config;
  Timing quick;
  Timing dense;  // the best of cuBLASLt's for bf16 or f16 inputs and weights of the same shape
  Timing alone;  // of a fused product: the same product as family "gemm" computes it
  double read_us = 0;        // of a kernel that only reads as many bytes
  bool library_won = false;  // the race of the tuner

  double bytes_per_second() const { return cost.bytes / (timing.median_us * 1e-6); }
  double flops_per_second() const { return cost.flops / (timing.median_us * 1e-6); }
};
ordered_json to_json(const ProductResult& result);

/// The product of family "gemm" that a problem of any family of products comes down to: m, n, k,
/// 16-bit inputs of its kind, and outputs of its size.
Params plain_product(const Params& problem);

/// Measures products that have just been tuned.
class ProductBench {
 public:
  explicit ProductBench(KernelLibrary& library) : library_(library) {}
  /// Own kernels and their rivals take turns, but for reading, which clocks do not touch. Throws
  /// InputError for an unsupported problem, CompileError, OutOfMemoryError, CudaError.
  ProductResult measure(const std::string& name, const ProblemReport& tuned);

 private:
  std::vector<Contestant> dense_rivals(const Params& problem);
  std::vector<Contestant> quick_rivals(const Params& problem);
  double read_us(double bytes);

  KernelLibrary& library_;
  std::map<std::string, std::vector<Contestant>> dense_rivals_;
  std::map<std::int64_t, double> reads_;  // by 16-byte words
};

}  // namespace quern
