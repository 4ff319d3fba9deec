#include "autotune/trial_tools.h"

#include <fmt/format.h>

#include <array>
#include <bit>

#include "runtime/base/error.h"
#include "templates/embedded.h"
#include "templates/utility/utility_args.h"

namespace quern {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kBlocksPerSm = 8;

/// Suffix of the entries for a type.
std::string_view type_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::f16:
      return "f16";
    case DType::bf16:
      return "bf16";
    default:
      return "bits";
  }
}

}  // namespace

std::string trial_tools_source() {
  std::string text =
      "#include \"utility/compare.cuh\"\n#include \"utility/fill.cuh\"\nusing namespace quern;\n";
  const auto kernel = [&](std::string_view what, std::string_view args, std::string_view type,
                          std::string_view suffix) {
    text += fmt::format(
        "extern \"C\" __global__ void __launch_bounds__({}) quern_{}_{}(const __grid_constant__ {} "
        "args) {{\n  {}<{}>(args);\n}}\n",
        kThreads, what, suffix, args, what, type);
  };
  for (const auto& [type, suffix] : {std::pair{"float", "f32"}, {"f16", "f16"}, {"bf16", "bf16"}}) {
    kernel("fill_normal", "FillArgs", type, suffix);
    kernel("fill_uniform", "FillArgs", type, suffix);
    kernel("compare", "CompareArgs", type, suffix);
  }
  kernel("compare", "CompareArgs", "u8", "bits");
  return text;
}

TrialTools::TrialTools(KernelLibrary& library)
    : context_(library.context()), result_(2 * sizeof(std::uint64_t)) {
  // The embedded text, since a registry of somebody's own families may lack it.
  const CompileRequest request{"trial tools", trial_tools_source(), "quern_compare_f32", library.arch(), {}};
  const CompiledKernel compiled =
      compile_cached(library.nvrtc(), &library.images(), request, embedded_templates());
  module_ = std::make_shared<const Module>(compiled.image.cubin);
}

bool TrialTools::is_native(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

LaunchPlan TrialTools::plan() const {
  LaunchPlan plan;
  plan.grid[0] = static_cast<unsigned>(kBlocksPerSm * context_.device().arch().num_sms);
  plan.block[0] = kThreads;
  return plan;
}

void TrialTools::fill(CUdeviceptr to, const OperandSpec& spec, std::uint64_t seed,
                      const Stream& stream) const {
  FillArgs args{};
  args.out = reinterpret_cast<void*>(to);
  args.count = spec.num_elements();
  args.seed = seed;
  args.stddev = static_cast<float>(spec.stddev);
  args.magnitude = spec.positive ? 1 : 0;
  const auto [least, most] = spec.between.value_or(std::pair{0.0, 0.0});
  args.least = static_cast<float>(least);
  args.most = static_cast<float>(most);
  launch(stream,
         module_->function(fmt::format("quern_fill_{}_{}", spec.between ? "uniform" : "normal",
                                       type_name(spec.dtype))),
         plan(), args);
}

TrialTools::Difference TrialTools::difference(CUdeviceptr out, CUdeviceptr reference,
                                              const OperandSpec& spec, const Tolerance& tolerance,
                                              const Stream& stream) const {
  if (spec.num_elements() == 0) return {};
  CompareArgs args{};
  args.out = reinterpret_cast<const void*>(out);
  args.reference = reinterpret_cast<const void*>(reference);
  args.count = is_native(spec.dtype) ? spec.num_elements() : spec.size_bytes();
  args.abs = tolerance.abs;
  args.rel = tolerance.rel;
  args.worst = result_.as<unsigned long long>();
  args.unequal = args.worst + 1;
  fill_bytes(result_.address(), 0, result_.size_bytes(), stream);
  launch(stream, module_->function(fmt::format("quern_compare_{}", type_name(spec.dtype))), plan(),
         args);
  std::array<std::uint64_t, 2> result{};
  copy_to_host(result.data(), result_.address(), sizeof result, stream);
  stream.synchronize();
  return {std::bit_cast<double>(result[0]), result[1]};
}

}  // namespace quern
