#pragma once
#include <string>
#include <vector>

#include "autotune/search.h"
#include "model/cli.h"

namespace quern::cli {

/// `quern bench-kernels --family gemm`: the products of a model's layer.
struct ProductOptions {
  std::string family = "gemm", model;
  std::vector<int> rows = {1, 16, 64, 256, 2048};
  std::vector<std::string> products;  // only these; empty = all
  std::vector<std::string> sizes;     // "4096x4096", n x k: instead of a model's products
  std::string variant;                // of a quantised family, "w4a16"; empty = its first
  std::string search{name(SearchStrategy::ranked)};
};
/// Tunes every product anew and measures it beside cuBLASLt and a kernel that only reads. Throws
/// InputError, DeviceError.
void bench_products(const Common& common, const ProductOptions& options);

}  // namespace quern::cli
