#include "model/gpu_session.h"

#include <algorithm>
#include <array>
#include <vector>

#include "templates/embedded.h"
#include "templates/utility/utility.h"

namespace quern {

GpuSession::GpuSession(const GpuSessionOptions& options)
    : context_(options.device),
      kernels_(context_, FamilyRegistry::shipped(template_files(options.templates)),
               {options.cache, options.library_dirs, 0, options.worker_command, options.system_cache}) {}

double GpuSession::read_roof() {
  if (read_roof_) return *read_roof_;
  const auto l2 = static_cast<std::size_t>(context_.device().l2_bytes);
  const std::size_t wanted = std::max<std::size_t>(std::size_t{2} << 30, 16 * l2);
  const std::size_t bytes = std::min(wanted, context_.free_bytes() / 4) / 4096 * 4096;
  const Stream stream;
  const Buffer in(bytes), out(4);
  fill_random(stream, in.address(), bytes / 2, DType::bf16, 1.0);
  fill_bytes(out.address(), 0, 4, stream);
  const Params problem = to_params(StreamProblem{static_cast<std::int64_t>(bytes / 16)});
  const Family& family = kernels_.families().at("stream");
  const std::array<CUdeviceptr, 2> addresses{in.address(), out.address()};
  double best = 0;
  const std::vector<Params> configs = family.candidates(problem, kernels_.arch());
  // A few shapes of the grid are enough: they differ by a percent or two.
  for (std::size_t i = 0; i < std::min<std::size_t>(4, configs.size()); ++i) {
    const ReadyKernel kernel = kernels_.load(family, problem, configs[i]);
    const Workspace none;
    for (int repeat = 0; repeat < 5; ++repeat) {
      const Event start, end;
      start.record(stream);
      kernel.enqueue(stream, problem, addresses, none);
      end.record(stream);
      end.synchronize();
      best = std::max(best, static_cast<double>(bytes) / (1e-6 * end.us_since(start)));
    }
  }
  read_roof_ = best;
  return best;
}

void GpuSession::fill_random(const Stream& stream, CUdeviceptr address, std::size_t elements,
                             DType dtype, double stddev) {
  const FillProblem problem{static_cast<std::int64_t>(elements), dtype, stddev, next_seed_++};
  const Params params = to_params(problem);
  const Family& family = kernels_.families().at("fill");
  const ReadyKernel kernel =
      kernels_.load(family, params, kernels_.default_config(family, params));
  const std::array<CUdeviceptr, 1> addresses{address};
  const Workspace none;
  kernel.enqueue(stream, params, addresses, none);
}

std::unique_ptr<GpuModel> GpuSession::open(const ModelConfig& config, const ModelWeights& weights,
                                           DType dtype, const GpuModelOptions& options,
                                           const LoadProgress& progress) {
  const Stream stream;
  const Repack repack = [&](const Params& problem, std::span<const std::uint64_t> operands) {
    const Family& family = kernels_.families().at("wna16_repack");
    const ReadyKernel kernel =
        kernels_.load(family, problem, kernels_.default_config(family, problem));
    const std::vector<CUdeviceptr> addresses(operands.begin(), operands.end());
    const Workspace none;
    kernel.enqueue(stream, problem, addresses, none);
  };
  DeviceWeights on_device(config, dtype, weights, stream, repack, progress);
  return std::make_unique<GpuModel>(config, dtype, std::move(on_device), context_, kernels_,
                                    options);
}

std::unique_ptr<GpuModel> GpuSession::open_random(const ModelConfig& config, DType dtype,
                                                  const GpuModelOptions& options) {
  const Stream stream;
  DeviceWeights on_device(
      config, dtype, stream,
      [&](std::uint64_t address, std::size_t elements, DType type, double stddev) {
        fill_random(stream, address, elements, type, stddev);
      });
  stream.synchronize();
  return std::make_unique<GpuModel>(config, dtype, std::move(on_device), context_, kernels_,
                                    options);
}

DType gpu_dtype(const ModelConfig& config) {
  return config.dtype == DType::f16 ? DType::f16 : DType::bf16;
}

}  // namespace quern
