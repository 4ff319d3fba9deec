#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "runtime/base/dtype.h"
#include "runtime/memory.h"
#include "runtime/stream.h"

namespace quern {

/// Row-major product Y[m, n] = X[m, k] · W[n, k]ᵀ with fp32 accumulation (i32 for i8), W being
/// stored as checkpoints store a linear layer.
struct MatmulShape {
  int m = 0, n = 0, k = 0;
  DType input = DType::bf16;   // of X and W: f32, f16, bf16, i8 or, where `scaled`, e4m3
  DType output = DType::bf16;  // of Y; i32 where the input is i8
  bool scaled = false;         // Y is multiplied by a scale of X and one of W
  bool fast_sums =
      false;  // e4m3: sums stay in the tensor cores, which cut them off after some 13 bits
};

/// Device addresses of the scales, an f32 each.
struct MatmulScales {
  CUdeviceptr x = 0, w = 0;
};

/// cuBLASLt, loaded with dlopen at construction. One per context; not thread-safe.
class CublasLt {
 public:
  /// Throws DeviceError with one sentence if libcublasLt cannot be loaded. `library_dirs` are
  /// searched first.
  explicit CublasLt(const std::vector<std::string>& library_dirs = {});
  ~CublasLt();
  std::string version() const;

  /// How many algorithms the heuristics offer for this shape (at most `limit`), best first.
  int num_algorithms(const MatmulShape& shape, int limit = 8);
  /// Workspace that algorithm `rank` needs.
  std::size_t workspace_bytes(const MatmulShape& shape, int rank);
  /// Enqueues the product; capturable. Pointers are device addresses, 16-byte aligned; `workspace`
  /// holds at least workspace_bytes(shape, rank). Throws InputError if scales are missing.
  void matmul(const Stream& stream, const MatmulShape& shape, int rank, CUdeviceptr x,
              CUdeviceptr w, CUdeviceptr y, CUdeviceptr workspace, const MatmulScales& scales = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern
