#include "tests/support/family_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "autotune/launch_args.h"
#include "autotune/operands.h"
#include "runtime/cublaslt.h"
#include "templates/embedded.h"
#include "tests/support/spread.h"

namespace quern::test {
namespace {

/// Loaded kernels by source; never destroyed, as the driver may be gone before statics are.
std::map<std::string, Module>& modules() {
  static auto& loaded = *new std::map<std::string, Module>;
  return loaded;
}

struct Build {
  KernelSource source;
  std::string config;  // for messages
  std::string cubin, error;
};

/// Compiles and loads every source that is not loaded yet. Those that fail are reported and absent.
void load_all(const std::vector<Build>& wanted, const Arch& arch) {
  std::vector<Build> missing;
  for (const Build& build : wanted) {
    const auto same = [&](const Build& other) {
      return other.source.source == build.source.source;
    };
    if (!modules().count(build.source.source) && std::none_of(missing.begin(), missing.end(), same))
      missing.push_back(build);
  }
  if (missing.empty()) return;
  compile("extern \"C\" __global__ void warm_up() {}", "warm_up", arch);  // loads NVRTC once
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < missing.size(); i = next++) {
      const KernelSource& s = missing[i].source;
      try {
        missing[i].cubin = compile(s.source, s.entry, arch, embedded_templates(), s.options).cubin;
      } catch (const std::exception& e) {
        missing[i].error = e.what();
      }
    }
  };
  const std::size_t num_threads =
      std::min<std::size_t>({missing.size(), std::max(1u, std::thread::hardware_concurrency()), 8});
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < num_threads; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  for (const Build& build : missing) {
    CHECK_MESSAGE(build.error.empty(), build.config << ": " << build.error);
    if (build.error.empty()) modules().emplace(build.source.source, Module(build.cubin));
  }
}

CublasLt& shared_cublaslt() {
  static CublasLt& library = *new CublasLt();
  return library;
}

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

std::string coordinate(const std::vector<std::int64_t>& shape, std::size_t index) {
  std::string out;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    const auto extent = static_cast<std::size_t>(shape[axis]);
    out = fmt::format("{}{}{}", index % extent, out.empty() ? "" : ", ", out);
    index /= extent;
  }
  return fmt::format("[{}]", out);
}

/// What is wrong with an output, or nothing. Types that only the gate can decode are compared as it
/// does.
std::optional<std::string> difference(const OperandSpec& spec, const std::vector<std::byte>& got,
                                      const std::vector<std::byte>& expected,
                                      const Tolerance& tolerance) {
  if (!is_float(spec.dtype)) {
    const Comparison found = compare_output(spec, got, expected, tolerance);
    if (found.error <= 1) return std::nullopt;
    return found.complaint;
  }
  const auto actual = decode(got, spec.dtype), reference = decode(expected, spec.dtype);
  std::size_t num_off = 0, worst = 0;
  double worst_score = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double a = actual[i], b = reference[i];
    if (a == b || (std::isnan(a) && std::isnan(b))) continue;
    double score = std::fabs(a - b) / (tolerance.abs + tolerance.rel * std::fabs(b));
    if (std::isnan(score)) score = HUGE_VAL;
    if (score <= 1) continue;
    ++num_off;
    if (score > worst_score) worst_score = score, worst = i;
  }
  if (num_off == 0) return std::nullopt;
  return fmt::format("{} of {} elements of {} are off; the worst is {}: {} instead of {}", num_off,
                     actual.size(), spec.name, coordinate(spec.shape, worst), actual[worst],
                     reference[worst]);
}

/// The device's copies of all operands, outputs guarded and full of NaN.
class DeviceOperands {
 public:
  DeviceOperands(const std::vector<HostTensor>& inputs, const Stream& stream)
      : inputs_(inputs), stream_(stream) {
    for (const HostTensor& tensor : inputs)
      buffers_.push_back(std::make_unique<GuardedBuffer>(tensor.data.size(), stream));
    for (std::size_t i = 0; i < inputs.size(); ++i) copy(i);
    stream.synchronize();
  }
  std::vector<std::uint64_t> addresses() const {
    std::vector<std::uint64_t> out;
    for (const auto& buffer : buffers_) out.push_back(buffer->address());
    return out;
  }
  /// Undoes what a kernel wrote.
  void reset() {
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i].spec.role == OperandSpec::Role::out)
        fill_bytes(buffers_[i]->address(), 0xff, buffers_[i]->size_bytes(), stream_);
      else if (inputs_[i].spec.role == OperandSpec::Role::inout)
        copy(i);
    }
    stream_.synchronize();
  }
  std::vector<std::byte> read(std::size_t i) const {
    return buffers_[i]->download<std::byte>(stream_);
  }
  bool intact(std::size_t i) const { return buffers_[i]->intact(stream_); }

 private:
  void copy(std::size_t i) {
    if (inputs_[i].spec.role != OperandSpec::Role::out)
      copy_to_device(buffers_[i]->address(), inputs_[i].data.data(), inputs_[i].data.size(),
                     stream_);
  }
  const std::vector<HostTensor>& inputs_;
  const Stream& stream_;
  std::vector<std::unique_ptr<GuardedBuffer>> buffers_;
};

/// Enqueues one run of a config; nothing if the library does not offer it.
using Run = std::function<void()>;

Run library_run(const Family& family, const Params& problem, const Params& config,
                const std::vector<std::uint64_t>& addresses, const Stream& stream,
                Buffer& workspace) {
  const LibraryMatmul m = family.library_matmul(problem, config);
  const MatmulShape shape{m.m, m.n, m.k, m.input, m.output, m.scaled, m.fast_sums};
  CublasLt& library = shared_cublaslt();
  if (m.rank >= library.num_algorithms(shape)) return {};
  const std::size_t bytes = library.workspace_bytes(shape, m.rank);
  if (bytes > 0) workspace = Buffer(bytes);
  MatmulScales scales;
  if (m.scaled) scales = {addresses[2], addresses[3]};
  return [&library, &stream, &workspace, shape, rank = m.rank, addresses, scales] {
    library.matmul(stream, shape, rank, addresses[0], addresses[1], addresses.back(),
                   workspace.address(), scales);
  };
}

Run kernel_run(const Family& family, const Params& problem, const Params& config, const Arch& arch,
               const std::vector<std::uint64_t>& addresses, const Stream& stream,
               Buffer& workspace) {
  const KernelSource source = family.source(problem, config, arch);
  const auto found = modules().find(source.source);
  if (found == modules().end()) return {};  // it did not compile, which load_all has reported
  const CUfunction function = found->second.function(source.entry);
  const LaunchPlan plan = family.plan(problem, config, arch);
  if (plan.workspace_bytes > 0) {
    workspace = Buffer(plan.workspace_bytes);
    fill_bytes(workspace.address(), 0, plan.workspace_bytes, stream);
  }
  const auto args = launch_args(family, problem, config, addresses, workspace.address());
  return
      [&stream, function, plan, args] { launch(stream, function, plan, args.data(), args.size()); };
}

std::vector<Params> configs_to_check(const Family& family, const Params& problem, const Arch& arch,
                                     const FamilyCheck& options) {
  std::vector<Params> out = spread(family.candidates(problem, arch), options.max_candidates);
  out.insert(out.end(), options.configs.begin(), options.configs.end());
  const Params reference = family.reference_config(problem);
  if (!reference.is_null()) out.push_back(reference);
  return out;
}

}  // namespace

HostTensor random_tensor(const OperandSpec& spec, std::uint32_t seed) {
  HostTensor tensor{spec, std::vector<std::byte>(spec.size_bytes())};
  if (!spec.values.empty()) {
    if (spec.dtype != DType::i32 || spec.values.size() != spec.num_elements())
      throw std::invalid_argument(spec.name + " has the wrong number of values");
    std::memcpy(tensor.data.data(), spec.values.data(), tensor.data.size());
  } else if (is_float(spec.dtype)) {
    auto values = random_values(spec.num_elements(), seed);
    // Uniform in [-1, 1) has a standard deviation of 1 / sqrt(3).
    for (float& value : values) value *= static_cast<float>(spec.stddev * std::sqrt(3.0));
    if (spec.positive)
      for (float& value : values) value = std::fabs(value);
    tensor.data = encode(values, spec.dtype);
  } else {
    tensor.data = repeat_to(trial_contents(spec, seed), tensor.data.size());
  }
  return tensor;
}

void check_family(GpuFixture& gpu, const Family& family, const Params& problem,
                  const Oracle& oracle, const FamilyCheck& options) {
  const Arch arch = gpu.arch();
  INFO(family.name(), " ", to_text(problem));
  const auto why = family.unsupported(problem, arch);
  REQUIRE_MESSAGE(!why, why.value_or(""));

  std::vector<HostTensor> inputs;
  std::uint32_t seed = options.seed * 1000;
  for (const OperandSpec& spec : family.operands(problem))
    inputs.push_back(random_tensor(spec, seed++));
  std::vector<HostTensor> expected = inputs;
  // What the oracle leaves alone must still be the poison that the device's outputs start with.
  for (HostTensor& tensor : expected)
    if (tensor.spec.role == OperandSpec::Role::out)
      std::fill(tensor.data.begin(), tensor.data.end(), std::byte{0xff});
  if (oracle)
    oracle(problem, expected);
  else
    family.cpu_reference(problem, expected);

  const auto configs = configs_to_check(family, problem, arch, options);
  std::vector<Build> builds;
  for (const Params& config : configs) {
    const auto rejected = family.reject_reason(problem, config, arch);
    CHECK_MESSAGE(!rejected, to_text(config) << ": " << rejected.value_or(""));
    if (!rejected && !family.is_library(config))
      builds.push_back({family.source(problem, config, arch), to_text(config), {}, {}});
  }
  load_all(builds, arch);

  DeviceOperands operands(inputs, gpu.stream);
  for (const Params& config : configs) {
    INFO("config ", to_text(config));
    if (family.reject_reason(problem, config, arch)) continue;
    Buffer workspace;
    const Run run =
        family.is_library(config)
            ? library_run(family, problem, config, operands.addresses(), gpu.stream, workspace)
            : kernel_run(family, problem, config, arch, operands.addresses(), gpu.stream,
                         workspace);
    if (!run) continue;
    operands.reset();
    run();
    std::map<std::size_t, std::vector<std::byte>> first;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      CHECK_MESSAGE(operands.intact(i), "a write outside of " << inputs[i].spec.name);
      if (inputs[i].spec.role == OperandSpec::Role::in) continue;
      first[i] = operands.read(i);
      const auto off =
          difference(inputs[i].spec, first[i], expected[i].data, family.tolerance(problem, i));
      CHECK_MESSAGE(!off, off.value_or(""));
    }
    // Back to back, so that launches overlap where they may; not where the output is an input too.
    const bool repeatable = std::none_of(inputs.begin(), inputs.end(), [](const HostTensor& t) {
      return t.spec.role == OperandSpec::Role::inout;
    });
    operands.reset();
    run();
    if (repeatable) run();
    for (const auto& [i, bytes] : first)
      CHECK_MESSAGE(operands.read(i) == bytes,
                    inputs[i].spec.name << " differs from run to run: a race");
  }
}

}  // namespace quern::test
