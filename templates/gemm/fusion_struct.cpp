#include "templates/gemm/fusion_struct.h"

#include <fmt/format.h>

#include "runtime/base/error.h"
#include "templates/common/stub.h"

namespace quern {
namespace {

std::size_t bytes_of(const GemmFusion& fusion, const ArgsStruct& base) {
  const std::size_t bytes = base.bytes + (fusion.norm_eps ? 8 : 0) + fusion.args_bytes;
  return (bytes + base.alignment - 1) / base.alignment * base.alignment;
}

}  // namespace

std::string fusion_struct(const GemmFusion& fusion, const ArgsStruct& base, DType dtype) {
  std::string out = fmt::format(
      "struct Fusion {{\n"
      "  static constexpr bool kFused = true, kLeavesY = {}, kNormalises = {};\n"
      "  static constexpr int kParts = {};\n",
      fusion.leaves_y, fusion.norm_eps.has_value(), fusion.parts);
  if (fusion.norm_eps)
    out += fmt::format("  static constexpr float kEps = {:e}f;\n  using Stream = {};\n",
                       *fusion.norm_eps, device_type(fusion.f32_stream ? DType::f32 : dtype));
  out += fmt::format("  struct Args : quern::{} {{\n{}    EpilogueArgs expression;\n  }};\n",
                     base.name, fusion.norm_eps ? "    const void* gamma;\n" : "");
  out += fmt::format("  static_assert(sizeof(Args) == {}, \"as the host packs it\");\n",
                     bytes_of(fusion, base));
  out += fmt::format(
      "  template <int N>\n"
      "  static __device__ __forceinline__ void apply(const Args& args, quern::i64 row, int "
      "column,\n"
      "                                               const float (&sum)[N * kParts]{}) {{\n"
      "    epilogue<N>(args.expression, row, column, sum{});\n  }}\n"
      "  static __device__ __forceinline__ void prefetch(const Args& args, int column, int "
      "columns,\n"
      "                                                  int thread) {{\n"
      "    epilogue_prefetch(args.expression, column, columns, thread);\n  }}\n}};\n",
      fusion.leaves_y ? ", float (&y)[N]" : "", fusion.leaves_y ? ", y" : "");
  return out;
}

std::vector<std::byte> with_fusion(std::vector<std::byte> args, const GemmFusion& fusion,
                                   const ArgsStruct& base, std::uint64_t gamma,
                                   std::span<const std::byte> epilogue_args) {
  if (args.size() != base.bytes || epilogue_args.size() != fusion.args_bytes)
    throw InputError(fmt::format("the expression's arguments are {} bytes, not {}",
                                 fusion.args_bytes, epilogue_args.size()));
  if (fusion.norm_eps) {
    const auto* first = reinterpret_cast<const std::byte*>(&gamma);
    args.insert(args.end(), first, first + sizeof gamma);
  }
  args.insert(args.end(), epilogue_args.begin(), epilogue_args.end());
  args.resize(bytes_of(fusion, base));
  return args;
}

}  // namespace quern
