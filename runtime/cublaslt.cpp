#include "runtime/cublaslt.h"

#include <cublasLt.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "runtime/base/error.h"
#include "runtime/library.h"

namespace quern {
namespace {

constexpr int kMaxAlgorithms = 16;
// NVIDIA's recommendation for Hopper (cuBLAS documentation, "cublasSetWorkspace"); enough
// elsewhere.
constexpr std::size_t kMaxWorkspaceBytes = std::size_t{32} << 20;
constexpr std::uint32_t kAlignmentBytes = 16;

/// Entry points of libcublasLt, resolved by name.
struct Functions {
// clang-format off
#define QUERN_CUBLASLT_FUNCTIONS(X)                                                             \
  X(Create) X(Destroy) X(GetVersion) X(GetStatusString) X(MatrixLayoutCreate)                   \
  X(MatrixLayoutDestroy) X(MatmulDescCreate) X(MatmulDescDestroy) X(MatmulDescSetAttribute)     \
  X(MatmulPreferenceCreate) X(MatmulPreferenceDestroy) X(MatmulPreferenceSetAttribute)          \
  X(MatmulAlgoGetHeuristic) X(Matmul)
// clang-format on
#define QUERN_DECLARE(f) decltype(&cublasLt##f) f = nullptr;
  QUERN_CUBLASLT_FUNCTIONS(QUERN_DECLARE)
#undef QUERN_DECLARE

  bool load(const Library& library) {
    bool complete = true;
#define QUERN_LOAD(f) complete = library.load(f, "cublasLt" #f) && complete;
    QUERN_CUBLASLT_FUNCTIONS(QUERN_LOAD)
#undef QUERN_LOAD
    return complete;
  }
};

/// A cuBLASLt object, destroyed on every path by the library that made it.
template <class T>
class Owned {
 public:
  using Release = cublasStatus_t(CUBLASWINAPI*)(T);
  explicit Owned(Release release) : release_(release) {}
  ~Owned() {
    if (handle_) release_(handle_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  T* out() { return &handle_; }
  T get() const { return handle_; }

 private:
  Release release_;
  T handle_ = nullptr;
};

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return CUDA_R_32F;
    case DType::f16:
      return CUDA_R_16F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::e4m3:
      return CUDA_R_8F_E4M3;
    case DType::i8:
      return CUDA_R_8I;
    case DType::i32:
      return CUDA_R_32I;
    default:
      throw InputError(fmt::format("cuBLASLt products of {} are not supported", name(dtype)));
  }
}

using Key = std::tuple<int, int, int, DType, DType, bool, bool>;
Key key(const MatmulShape& shape) {
  return {shape.m, shape.n, shape.k, shape.input, shape.output, shape.scaled, shape.fast_sums};
}

/// Descriptors of one shape and the algorithms that the heuristics offer for it.
struct Recipe {
  explicit Recipe(const Functions& f)
      : operation(f.MatmulDescDestroy),
        x(f.MatrixLayoutDestroy),
        w(f.MatrixLayoutDestroy),
        y(f.MatrixLayoutDestroy) {}
  Owned<cublasLtMatmulDesc_t> operation;
  Owned<cublasLtMatrixLayout_t> x, w, y;
  std::vector<cublasLtMatmulHeuristicResult_t> algorithms;  // best first
};

}  // namespace

struct CublasLt::Impl {
  Library library;
  Functions lt;
  cublasLtHandle_t handle = nullptr;
  std::map<Key, std::unique_ptr<Recipe>> recipes;

  explicit Impl(const std::vector<std::string>& library_dirs)
      : library({"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}, library_dirs) {
    if (!library) throw DeviceError("cuBLASLt was not found (libcublasLt cannot be loaded)");
    if (!lt.load(library)) throw DeviceError("the cuBLASLt found here is too old");
    check(lt.Create(&handle), "setting up");
  }
  ~Impl() { lt.Destroy(handle); }

  void check(cublasStatus_t status, const char* what) const {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    const std::string sentence =
        fmt::format("cuBLASLt failed in {}: {}", what, lt.GetStatusString(status));
    if (status == CUBLAS_STATUS_ALLOC_FAILED) throw OutOfMemoryError(sentence, status);
    throw CudaError(sentence, status);
  }

  const Recipe& recipe(const MatmulShape& shape) {
    auto& slot = recipes[key(shape)];
    if (!slot) slot = make(shape);
    return *slot;
  }

  /// cuBLAS thinks in columns: row-major Y[m, n] is column-major Yᵀ[n, m], so we ask for
  /// Yᵀ = op(W) · Xᵀ where the stored W[n, k] reads as [k, n] and is transposed, and X[m, k] reads
  /// as [k, m].
  std::unique_ptr<Recipe> make(const MatmulShape& shape) const {
    if (shape.m < 1 || shape.n < 1 || shape.k < 1)
      throw InputError(
          fmt::format("a product of {} x {} x {} has no elements", shape.m, shape.n, shape.k));
    const auto m = static_cast<std::uint64_t>(shape.m), n = static_cast<std::uint64_t>(shape.n),
               k = static_cast<std::uint64_t>(shape.k);
    if (shape.scaled != (shape.input == DType::e4m3))
      throw InputError(fmt::format("cuBLASLt products of {} are{} scaled", name(shape.input),
                                   shape.scaled ? " not" : ""));
    const bool integers = shape.input == DType::i8;
    if (integers != (shape.output == DType::i32))
      throw InputError(fmt::format("cuBLASLt products of {} do not end as {}", name(shape.input),
                                   name(shape.output)));
    const cudaDataType_t input = data_type(shape.input), output = data_type(shape.output);
    auto recipe = std::make_unique<Recipe>(lt);
    const char* what = "describing a product";
    check(lt.MatmulDescCreate(recipe->operation.out(),
                              integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                              integers ? CUDA_R_32I : CUDA_R_32F),
          what);
    if (shape.fast_sums) {
      const std::int8_t fast = 1;
      check(lt.MatmulDescSetAttribute(recipe->operation.get(), CUBLASLT_MATMUL_DESC_FAST_ACCUM,
                                      &fast, sizeof fast),
            what);
    }
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check(lt.MatmulDescSetAttribute(recipe->operation.get(), CUBLASLT_MATMUL_DESC_TRANSA,
                                    &transposed, sizeof transposed),
          what);
    check(lt.MatrixLayoutCreate(recipe->w.out(), input, k, n, shape.k), what);
    check(lt.MatrixLayoutCreate(recipe->x.out(), input, k, m, shape.k), what);
    check(lt.MatrixLayoutCreate(recipe->y.out(), output, n, m, shape.n), what);

    Owned<cublasLtMatmulPreference_t> preference(lt.MatmulPreferenceDestroy);
    check(lt.MatmulPreferenceCreate(preference.out()), what);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check(lt.MatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value),
            what);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMaxWorkspaceBytes);
    // The contract is fp32 accumulation: partial sums of split K must not pass through 16 bits.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<std::uint32_t>(shape.output == DType::f32 || integers
                                          ? CUBLASLT_REDUCTION_SCHEME_MASK
                                          : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kAlignmentBytes);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kAlignmentBytes);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, kAlignmentBytes);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, kAlignmentBytes);

    recipe->algorithms.resize(kMaxAlgorithms);
    int found = 0;
    const cublasStatus_t status = lt.MatmulAlgoGetHeuristic(
        handle, recipe->operation.get(), recipe->w.get(), recipe->x.get(), recipe->y.get(),
        recipe->y.get(), preference.get(), kMaxAlgorithms, recipe->algorithms.data(), &found);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, "choosing an algorithm");
    recipe->algorithms.resize(static_cast<std::size_t>(std::max(found, 0)));
    std::erase_if(recipe->algorithms,
                  [](const auto& result) { return result.state != CUBLAS_STATUS_SUCCESS; });
    return recipe;
  }

  const cublasLtMatmulHeuristicResult_t& algorithm(const Recipe& recipe, int rank) const {
    const std::size_t count = recipe.algorithms.size();
    if (rank < 0 || static_cast<std::size_t>(rank) >= count)
      throw InputError(
          fmt::format("cuBLASLt offers {} algorithms for this shape, not number {}", count, rank));
    return recipe.algorithms[static_cast<std::size_t>(rank)];
  }
};

CublasLt::CublasLt(const std::vector<std::string>& library_dirs)
    : impl_(std::make_unique<Impl>(library_dirs)) {}
CublasLt::~CublasLt() = default;

std::string CublasLt::version() const {
  const std::size_t version = impl_->lt.GetVersion();
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

int CublasLt::num_algorithms(const MatmulShape& shape, int limit) {
  return std::min(static_cast<int>(impl_->recipe(shape).algorithms.size()), limit);
}

std::size_t CublasLt::workspace_bytes(const MatmulShape& shape, int rank) {
  return impl_->algorithm(impl_->recipe(shape), rank).workspaceSize;
}

void CublasLt::matmul(const Stream& stream, const MatmulShape& shape, int rank, CUdeviceptr x,
                      CUdeviceptr w, CUdeviceptr y, CUdeviceptr workspace,
                      const MatmulScales& scales) {
  const Recipe& recipe = impl_->recipe(shape);
  const auto& algorithm = impl_->algorithm(recipe, rank);
  const float one = 1, zero = 0;
  const std::int32_t whole_one = 1, whole_zero = 0;
  const bool integers = shape.input == DType::i8;
  const void* alpha = integers ? static_cast<const void*>(&whole_one) : &one;
  const void* beta = integers ? static_cast<const void*>(&whole_zero) : &zero;
  const auto pointer = [](CUdeviceptr address) { return reinterpret_cast<void*>(address); };
  if (shape.scaled) {
    if (!scales.x || !scales.w) throw InputError("a scaled product needs the scales of X and W");
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, CUdeviceptr address) {
      const void* scale = pointer(address);
      impl_->check(
          impl_->lt.MatmulDescSetAttribute(recipe.operation.get(), attribute, &scale, sizeof scale),
          "describing a product");
    };
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scales.w);  // its A is W
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scales.x);
  }
  impl_->check(impl_->lt.Matmul(impl_->handle, recipe.operation.get(), alpha, pointer(w),
                                recipe.w.get(), pointer(x), recipe.x.get(), beta, pointer(y),
                                recipe.y.get(), pointer(y), recipe.y.get(), &algorithm.algo,
                                pointer(workspace), algorithm.workspaceSize, stream.get()),
               "a product");
}

}  // namespace quern
