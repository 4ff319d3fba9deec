#include "compiler/dsl_cuda_reduce.h"

#include <algorithm>
#include <limits>

#include "compiler/dsl_cuda_values.h"

namespace quern::dsl {
namespace {

/// The lanes of a warp that belong together, as a mask.
std::string mask(int lanes) {
  return lanes >= 32
             ? "0xffffffffu"
             : fmt::format("{:#x}u << threadIdx.x % 32 / {} * {}", (1u << lanes) - 1, lanes, lanes);
}

/// Waits for the threads of a block that share a row.
std::string barrier(const Sharers& row) {
  if (row.lanes == row.threads) return "__syncthreads();";
  return fmt::format(
      "asm volatile(\"bar.sync %0, {0};\" ::\"r\"(threadIdx.x / {0} + 1) : \"memory\");",
      row.lanes);
}

}  // namespace

CudaReductions::Fold CudaReductions::fold_of(const Node& reduction) const {
  const std::string infinity = literal(std::numeric_limits<float>::infinity());
  switch (reduction.op) {
    case Op::reduce_min:
      return {"min", infinity};
    case Op::reduce_max:
      return {"max", "-" + infinity};
    case Op::reduce_argmin:
      return {"argmin", "{0.0f, -1}", true};
    case Op::reduce_argmax:
      return {"argmax", "{0.0f, -1}", true};
    case Op::reduce_custom: {
      const Combine& combine = tree_.combines[static_cast<std::size_t>(reduction.index)];
      return {combine.name, literal(static_cast<float>(combine.identity)), false, reduction.index};
    }
    default:
      return {"sum", "0.0f"};
  }
}

std::string CudaReductions::folded(const Fold& fold, const std::string& a, const std::string& b) {
  if (fold.combine >= 0) {
    combines_.insert(fold.combine);
    return fmt::format("combine_{}({}, {})", fold.name, a, b);
  }
  if (fold.name == "sum") return a + " + " + b;
  if (!fold.indexed) return fmt::format("f{}f({}, {})", fold.name, a, b);
  const char* function = fold.name == "argmax" ? "larger" : "smaller";
  helpers_.need(function);
  return fmt::format("{}({}, {})", function, a, b);
}

std::string CudaReductions::type(const Node& reduction) {
  if (!fold_of(reduction).indexed) return "float";
  helpers_.need("Indexed");
  return "Indexed";
}

std::string CudaReductions::identity(const Node& reduction) { return fold_of(reduction).identity; }

std::string CudaReductions::fold(const Node& reduction, const std::string& partial,
                                 const Code& value, const std::string& position) {
  const Fold fold = fold_of(reduction);
  if (fold.name == "sum" && fold.combine < 0) return fmt::format("{} += {};", partial, value.text);
  return fmt::format(
      "{} = {};", partial,
      folded(fold, partial,
             fold.indexed ? fmt::format("{{{}, {}}}", value.text, position) : value.text));
}

Code CudaReductions::result(const Node& reduction, const std::string& text) const {
  if (fold_of(reduction).indexed) return {fmt::format("max(0, {}.index)", text)};
  if (reduction.op == Op::reduce_mean) return {text, Code::product};
  return {text};
}

Code CudaReductions::over_row(const Node& reduction, const std::string& partial) {
  if (row_.lanes == 1 && row_.cluster == 1) return result(reduction, partial);
  const Fold fold = fold_of(reduction);
  if (std::none_of(over_row_.begin(), over_row_.end(),
                   [&](const Fold& f) { return f.name == fold.name; }))
    over_row_.push_back(fold);
  std::string place;
  if (is_in_shared_memory()) {
    int& count = num_shared_[fold.indexed];
    place =
        fmt::format(", {}{}", fold.indexed ? "shared_indexed" : "shared",
                    row_.apart ? "" : fmt::format("[{}]{}", count, row_.in_turns ? "[turn]" : ""));
    ++count;
  }
  return result(reduction, fmt::format("row_{}({}{})", fold.name, partial, place));
}

Code CudaReductions::over_segment(const Node& reduction, const std::string& partial) {
  if (segment_.lanes == 1) return result(reduction, partial);
  const Fold fold = fold_of(reduction);
  if (std::none_of(over_segment_.begin(), over_segment_.end(),
                   [&](const Fold& f) { return f.name == fold.name; }))
    over_segment_.push_back(fold);
  return result(reduction, fmt::format("segment_{}({})", fold.name, partial));
}

std::string CudaReductions::row_barrier() {
  if (row_.lanes == 1) return {};
  row_barrier_ = true;
  return "row_barrier();";
}

std::string CudaReductions::segment_barrier() {
  if (segment_.lanes == 1) return {};
  segment_barrier_ = true;
  return "segment_barrier();";
}

std::vector<std::string> CudaReductions::shared_memory() const {
  std::vector<std::string> out;
  for (const int indexed : {0, 1}) {
    if (num_shared_[indexed] == 0) continue;
    const std::string name = indexed ? "Indexed shared_indexed" : "float shared";
    out.push_back(row_.apart ? fmt::format("__shared__ {}[{}];", name, row_.threads)
                             : fmt::format("__shared__ {}[{}]{}[{}];", name, num_shared_[indexed],
                                           row_.in_turns ? "[2]" : "",
                                           row_.cluster > 1 ? 32 + row_.cluster : 32));
  }
  return out;
}

std::string CudaReductions::lanes_function(const Fold& fold, const std::string& name, int lanes,
                                           const std::string& what) {
  const std::string type = fold.indexed ? "Indexed" : "float";
  helpers_.need("shuffle " + type);
  return fmt::format(
      "// Over the {0} neighbouring threads that share {1}; each gets the result.\n"
      "__device__ inline {2} {3}({2} value) {{\n"
      "  const unsigned lanes = {4};\n"
      "#pragma unroll\n"
      "  for (int apart = {5}; apart > 0; apart /= 2)\n"
      "    value = {6};\n"
      "  return value;\n}}\n\n",
      lanes, what, type, name, mask(lanes), lanes / 2,
      folded(fold, "value", "shuffle(lanes, value, apart)"));
}

std::string CudaReductions::row_functions(const Fold& fold) {
  if (row_.lanes <= 32 && row_.cluster == 1)
    return lanes_function(fold, "row_" + fold.name, row_.lanes, "a row");
  const std::string type = fold.indexed ? "Indexed" : "float";
  const std::string warp = "warp_" + fold.name;
  std::string out = lanes_function(fold, warp, 32, "a warp");
  const int warps = row_.lanes / 32;
  const std::string first =
      row_.lanes == row_.threads ? "" : fmt::format("threadIdx.x / {} * {} + ", row_.lanes, warps);
  const bool clustered = row_.cluster > 1;
  const std::string name = (clustered ? "block_" : "row_") + fold.name;
  out += fmt::format(
      "// Over {0}; `shared` has a place for each warp.\n"
      "__device__ inline {1} {2}({1} value, {1}* shared) {{\n"
      "  value = {3}(value);\n"
      "  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;\n"
      "  {4}\n"
      "  value = threadIdx.x % 32 < {5} ? shared[{6}threadIdx.x % 32] : {7};\n"
      "  return {3}(value);\n}}\n\n",
      row_.lanes == row_.threads ? "the block" : "the threads that share a row", type, name, warp,
      barrier(row_), warps, first, fold.indexed ? "Indexed" + fold.identity : fold.identity);
  if (!clustered) return out;
  helpers_.need("send");
  helpers_.need("cluster");
  helpers_.need("shuffle " + type);
  return out +
         fmt::format(
             "// Over the blocks of a cluster, which send each other their parts; after the\n"
             "// places of the warps, `shared` has one for each block.\n"
             "__device__ inline {0} row_{1}({0} value, {0}* shared) {{\n"
             "  value = block_{1}(value, shared);\n"
             "  if (threadIdx.x < {2}) send(shared + 32 + blockIdx.x % {2}, value, threadIdx.x);\n"
             "  cluster_arrive();\n"
             "  cluster_wait();\n"
             "  value = shared[32 + threadIdx.x % {2}];\n"
             "#pragma unroll\n"
             "  for (int apart = {3}; apart > 0; apart /= 2)\n"
             "    value = {4};\n"
             "  return value;\n}}\n\n",
             type, fold.name, row_.cluster, row_.cluster / 2,
             folded(fold, "value", "shuffle(0xffffffffu, value, apart)"));
}

std::string CudaReductions::column_function(const Fold& fold) {
  const std::string type = fold.indexed ? "Indexed" : "float";
  const int columns = row_.threads / row_.lanes;
  return fmt::format(
      "// Over the {0} threads of a block that share a column; `shared` has a place for each "
      "thread.\n"
      "__device__ inline {1} row_{2}({1} value, {1}* shared) {{\n"
      "  __syncthreads();  // what it held before has been read\n"
      "  shared[threadIdx.x] = value;\n"
      "  __syncthreads();\n"
      "  value = shared[threadIdx.x % {3}];\n"
      "  for (int part = 1; part < {0}; ++part)\n"
      "    value = {4};\n"
      "  return value;\n}}\n\n",
      row_.lanes, type, fold.name, columns,
      folded(fold, "value", fmt::format("shared[part * {0} + threadIdx.x % {0}]", columns)));
}

std::string CudaReductions::functions() {
  std::string out;
  for (const Fold& fold : over_segment_)
    out += lanes_function(fold, "segment_" + fold.name, segment_.lanes, "a segment");
  if (row_.lanes > 1 || row_.cluster > 1)
    for (const Fold& fold : over_row_)
      out += row_.apart ? column_function(fold) : row_functions(fold);
  if (segment_barrier_)
    out += fmt::format("__device__ inline void segment_barrier() {{ __syncwarp({}); }}\n\n",
                       mask(segment_.lanes));
  if (row_barrier_) {
    std::string statement = row_.apart ? "__syncthreads();" : barrier(row_);
    if (!row_.apart && row_.lanes <= 32)
      statement = fmt::format("__syncwarp({});", mask(row_.lanes));
    if (row_.cluster > 1) {
      helpers_.need("cluster");
      statement = "cluster_arrive();\n  cluster_wait();";
    }
    out += fmt::format("__device__ inline void row_barrier() {{\n  {}\n}}\n\n", statement);
  }
  std::string combines;
  for (const int combine : combines_)
    combines += combine_function(tree_.combines[static_cast<std::size_t>(combine)], helpers_);
  return combines + out;
}

}  // namespace quern::dsl
