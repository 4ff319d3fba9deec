#include "autotune/row_bench.h"

#include <algorithm>

#include "autotune/in_turns.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

constexpr const char* kCopyName = "copy_roof";
constexpr const char* kCopyText =
    "kernel copy_roof(x: f32[rows, cols]) -> (y: f32[rows, cols]) { y = x }";
constexpr std::int64_t kCopyCols = 1024;
constexpr double kCopyRowBytes = 2 * 4.0 * kCopyCols;  // read and written
constexpr std::size_t kCopyConfigs = 8;                // the best of so many is the roof

const RowFamily& row_family(KernelLibrary& library) {
  const auto* family = dynamic_cast<const RowFamily*>(&library.families().at("row"));
  if (!family || !family->kernels().contains(kCopyName))
    throw InputError("the library's row kernels lack the copy kernel");
  return *family;
}

}  // namespace

ordered_json to_json(const RowBenchResult& result) {
  return {{"kernel", result.kernel},
          {"problem", result.problem},
          {"config", result.config},
          {"tuned", result.tuned},
          {"median_us", result.timing.median_us},
          {"spread_us", result.timing.spread_us},
          {"default_us", result.default_us},
          {"bytes", result.bytes},
          {"bytes_per_second", result.bytes_per_second()},
          {"copy_bytes_per_second", result.copy_bytes_per_second},
          {"percent_of_copy", result.percent_of_copy()},
          {"nvrtc_ms", result.nvrtc_ms},
          {"registers", result.registers}};
}

void RowBench::add_copy_kernel(RowFamily& family) { family.add(kCopyText, "copy_roof.qk"); }

RowBench::RowBench(KernelLibrary& library) : library_(library), family_(row_family(library)) {}

double RowBench::copy_bandwidth(double bytes) {
  const auto rows = std::max<std::int64_t>(1, static_cast<std::int64_t>(bytes / kCopyRowBytes));
  const auto known = copies_.find(rows);
  if (known != copies_.end()) return known->second;
  const Params problem =
      family_.problem(kCopyName, {{{"rows", rows}, {"cols", kCopyCols}}, {}, {}});
  std::vector<Params> configs = family_.candidates(problem, library_.arch());
  configs.resize(std::min(configs.size(), kCopyConfigs));
  double best_us = 0;
  for (const Timing& timing : time_configs(library_, family_, problem, configs))
    if (best_us == 0 || timing.median_us < best_us) best_us = timing.median_us;
  return copies_[rows] = static_cast<double>(rows) * kCopyRowBytes / (best_us * 1e-6);
}

RowBenchResult RowBench::measure(const Params& problem) {
  const ReadyKernel kernel = library_.get(family_.name(), problem);
  RowBenchResult out;
  out.kernel = problem.at("kernel").get<std::string>();
  out.problem = problem;
  out.config = kernel.config();
  out.tuned = kernel.tuned();
  out.bytes = family_.cost(problem).bytes;
  out.registers = kernel.report().registers;
  const std::vector<Params> configs{out.config, library_.default_config(family_, problem)};
  const std::vector<Timing> timings = time_configs(library_, family_, problem, configs);
  out.timing = timings[0];
  out.default_us = timings[1].median_us;
  out.copy_bytes_per_second = copy_bandwidth(out.bytes);
  const CompileRequest request = compile_request(family_, problem, out.config, library_.arch());
  std::vector<double> compile_ms;
  for (int i = 0; i < 3; ++i)
    compile_ms.push_back(
        library_.nvrtc().compile(request, library_.families().templates()).compile_ms);
  std::sort(compile_ms.begin(), compile_ms.end());
  out.nvrtc_ms = compile_ms[1];
  return out;
}

}  // namespace quern
