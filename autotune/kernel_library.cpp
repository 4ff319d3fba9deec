#include "autotune/kernel_library.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "autotune/gate.h"
#include "autotune/launch_args.h"
#include "autotune/trial_tools.h"
#include "cache/grade.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace quern {

namespace {

MatmulShape matmul_shape(const LibraryMatmul& m) {
  return {m.m, m.n, m.k, m.input, m.output, m.scaled, m.fast_sums};
}

}  // namespace

struct BoundKernel::Kernel {
  const Family& family;
  Params problem, config;
  Arch arch;
  std::optional<TuningRecord> record;
  ResourceReport report;
  std::shared_ptr<const Module> module;  // null for a library routine
  CUfunction function = nullptr;
  CublasLt* cublas = nullptr;
};

void BoundKernel::enqueue(const Stream& stream, std::span<const CUdeviceptr> addresses,
                          const Workspace& workspace) const {
  const Kernel& kernel = *kernel_;
  if (workspace_bytes_ > workspace.size_bytes())
    throw Error(fmt::format("{} needs {} bytes of workspace and has {}", kernel.family.name(),
                            workspace_bytes_, workspace.size_bytes()));
  if (kernel.cublas) {
    const std::size_t wanted = shape_.scaled ? 5 : 3;
    if (addresses.size() != wanted)
      throw InputError(
          fmt::format("{} has {} operands as a library's", kernel.family.name(), wanted));
    MatmulScales scales;
    if (shape_.scaled) scales = {addresses[2], addresses[3]};
    // The library leaves its scratch dirty, which the counters must not be.
    kernel.cublas->matmul(
        stream, shape_, rank_, addresses[0], addresses[1], addresses.back(),
        workspace_bytes_ == 0 ? 0 : workspace.address() + Workspace::kCounterBytes, scales);
    return;
  }
  const std::vector<std::uint64_t> operands(addresses.begin(), addresses.end());
  const auto args =
      launch_args(kernel.family, problem_, kernel.config, operands, workspace.address());
  launch(stream, kernel.function, plan_, args.data(), args.size());
}

const Family& ReadyKernel::family() const { return kernel_->family; }
const Params& ReadyKernel::config() const { return kernel_->config; }
const std::optional<TuningRecord>& ReadyKernel::record() const { return kernel_->record; }
const ResourceReport& ReadyKernel::report() const { return kernel_->report; }

std::string ReadyKernel::description() const {
  const auto& record = kernel_->record;
  return fmt::format("{} {} | {} | {}", kernel_->family.name(), to_text(kernel_->problem),
                     to_text(kernel_->config),
                     record ? fmt::format("tuned {:.1f} us", record->median_us) : "default");
}

BoundKernel ReadyKernel::bind(const Params& problem) const {
  const Family& family = kernel_->family;
  const Params& config = kernel_->config;
  if (const auto reason = family.reject_reason(problem, config, kernel_->arch))
    throw InputError(fmt::format("{} of {} cannot serve {}: {}", to_text(config), family.name(),
                                 to_text(problem), *reason));
  BoundKernel bound;
  bound.kernel_ = kernel_;
  bound.problem_ = problem;
  if (kernel_->cublas) {
    const LibraryMatmul matmul = family.library_matmul(problem, config);
    bound.shape_ = matmul_shape(matmul);
    bound.rank_ = matmul.rank;
    if (const std::size_t bytes = kernel_->cublas->workspace_bytes(bound.shape_, bound.rank_))
      bound.workspace_bytes_ = Workspace::kCounterBytes + bytes;
  } else {
    bound.plan_ = family.plan(problem, config, kernel_->arch);
    bound.workspace_bytes_ = bound.plan_.workspace_bytes;
  }
  return bound;
}

KernelLibrary::KernelLibrary(const Context& context, FamilyRegistry families,
                             KernelLibraryOptions options)
    : KernelCatalog(context.device().arch(), context.device().fingerprint(), std::move(families),
                    std::move(options)),
      context_(context) {}

CublasLt* KernelLibrary::cublas() {
  if (!std::exchange(cublas_tried_, true)) {
    try {
      cublas_ = std::make_unique<CublasLt>(options_.library_dirs);
    } catch (const DeviceError& error) {
      log(LogLevel::warning, error.what());
    }
  }
  return cublas_.get();
}

std::optional<std::string> KernelLibrary::refusal(const Family& family, const Params& problem,
                                                  const Params& config) {
  if (auto reason = KernelCatalog::refusal(family, problem, config)) return reason;
  if (!family.is_library(config)) return std::nullopt;
  if (!cublas()) return "cuBLASLt is not installed";
  const LibraryMatmul m = family.library_matmul(problem, config);
  const int offered = cublas()->num_algorithms(matmul_shape(m), m.rank + 1);
  if (m.rank >= offered) return fmt::format("cuBLASLt offers only {} algorithms", offered);
  return std::nullopt;
}

std::optional<TuningRecord> KernelLibrary::adopt(const Family& family, const Params& problem) {
  std::optional<TuningRecord> record = records_.find(std::string(family.name()), problem);
  if (!record || !record->imported) {
    const auto [first, last] = foreign_.equal_range(key_of(family.name(), problem));
    const auto found = std::find_if(first, last, [&](const auto& entry) {
      return grade(fingerprint(), entry.second.fingerprint) == DeviceMatch::same_device;
    });
    if (found == last) return std::nullopt;
    record = found->second;
  }
  if (refusal(family, problem, record->config)) return std::nullopt;
  if (record->template_hash != template_hash_of(family, problem, record->config))
    return std::nullopt;
  Verdict verdict;
  try {
    verdict = gate_config(*this, family, problem, record->config);
  } catch (const CompileError& error) {
    verdict = {TrialStatus::compile_failed, error.what(), 0};
  } catch (const OutOfMemoryError& error) {
    verdict = {TrialStatus::skipped, error.what(), 0};
  }
  if (verdict.status != TrialStatus::ok) {
    ++counts_.gate_failed;
    log(LogLevel::warning, fmt::format("the imported config of {} {} is not used: {}",
                                       family.name(), to_text(problem), verdict.reason));
    return std::nullopt;
  }
  record->imported = false;
  record->fingerprint = records_.fingerprint();
  record->error = std::min(verdict.error, 1.0);
  try {
    records_.append(*record);
  } catch (const InputError& error) {
    log(LogLevel::warning, fmt::format("a checked record is not kept: {}", error.what()));
  }
  return record;
}

std::optional<TuningRecord> KernelLibrary::find_record(const Family& family,
                                                       const Params& problem) {
  if (auto record = valid_record(family, problem)) return record;
  return adopt(family, problem);
}

const TrialTools& KernelLibrary::trial_tools() {
  if (!trial_tools_) trial_tools_ = std::make_shared<const TrialTools>(*this);
  return *trial_tools_;
}

std::shared_ptr<const Module> KernelLibrary::module_of(const CompiledKernel& compiled) {
  if (const auto found = modules_.find(compiled.key); found != modules_.end())
    return found->second.module;
  auto module = std::make_shared<const Module>(compiled.image.cubin);
  modules_.emplace(compiled.key, Loaded{module, compiled.image.report});
  return module;
}

ReadyKernel KernelLibrary::load(const Family& family, const Params& problem, const Params& config,
                                const CompiledKernel& compiled) {
  auto state = std::make_shared<ReadyKernel::Kernel>(ReadyKernel::Kernel{
      family, problem, config, arch_, std::nullopt, {}, nullptr, nullptr, nullptr});
  state->module = module_of(compiled);
  state->report = compiled.image.report;
  state->function = state->module->function(family.source(problem, config, arch_).entry);
  return ReadyKernel(std::move(state));
}

ReadyKernel KernelLibrary::load(const Family& family, const Params& problem, const Params& config) {
  return make(family, problem, config, std::nullopt);
}

ReadyKernel KernelLibrary::make(const Family& family, const Params& problem, const Params& config,
                                std::optional<TuningRecord> record) {
  auto state = std::make_shared<ReadyKernel::Kernel>(ReadyKernel::Kernel{
      family, problem, config, arch_, std::move(record), {}, nullptr, nullptr, nullptr});
  if (family.is_library(config)) {
    state->cublas = cublas();
    if (!state->cublas) throw DeviceError("cuBLASLt is not installed");
    return ReadyKernel(std::move(state));
  }
  const CompileRequest request = compile_request(family, problem, config, arch_);
  const std::string key = image_key(request, families_.templates(), nvrtc_.version());
  if (!modules_.contains(key)) {
    const CompiledKernel compiled =
        compile_cached(nvrtc_, &images_, request, families_.templates());
    count(compiled);
    module_of(compiled);
  }
  const Loaded& loaded = modules_.at(key);
  state->module = loaded.module;
  state->report = loaded.report;
  state->function = loaded.module->function(request.entry);
  return ReadyKernel(std::move(state));
}

ReadyKernel KernelLibrary::get(std::string_view family_name, const Params& problem) {
  const Family& family = families_.at(family_name);
  const Params rounded = bucketed(family, problem);
  const std::string key = key_of(family_name, rounded);
  if (const auto found = ready_.find(key); found != ready_.end()) return found->second;
  if (auto reason = family.unsupported(rounded, arch_))
    throw InputError(
        fmt::format("{} {} is not supported: {}", family_name, to_text(problem), *reason));
  auto record = find_record(family, rounded);
  const Params config = record ? record->config : default_config(family, rounded);
  ++(record ? counts_.tuned : counts_.defaulted);
  ReadyKernel kernel = make(family, rounded, config, std::move(record));
  ready_.emplace(key, kernel);
  return kernel;
}

std::optional<TuningRecord> KernelLibrary::recorded(std::string_view family_name,
                                                    const Params& problem) {
  const Family& family = families_.at(family_name);
  const Params rounded = bucketed(family, problem);
  if (const auto found = ready_.find(key_of(family_name, rounded)); found != ready_.end())
    if (const auto& record = found->second.record()) return record;
  if (family.unsupported(rounded, arch_)) return std::nullopt;
  return find_record(family, rounded);
}

void KernelLibrary::prepare(std::span<const KernelRequest> requests) {
  std::map<std::string, std::pair<const Family*, Params>> wanted;  // that get() has not served yet
  for (const KernelRequest& request : requests) {
    const Family& family = families_.at(request.family);
    Params problem = bucketed(family, request.problem);
    std::string key = key_of(request.family, problem);
    if (!ready_.contains(key)) wanted.try_emplace(std::move(key), &family, std::move(problem));
  }
  if (wanted.empty()) return;
  CompileFarm farm = make_farm();
  std::map<std::string, bool> submitted;
  for (const auto& [name, entry] : wanted) {
    const Family& family = *entry.first;
    const Params& problem = entry.second;
    const auto record = valid_record(family, problem);
    const Params config = record ? record->config : default_config(family, problem);
    if (family.is_library(config)) continue;
    CompileRequest compile = compile_request(family, problem, config, arch_);
    const std::string key = image_key(compile, families_.templates(), nvrtc_.version());
    if (modules_.contains(key) || !submitted.emplace(key, true).second) continue;
    farm.submit(std::move(compile));
  }
  while (auto outcome = farm.next()) {
    if (!outcome->kernel) throw CompileError(outcome->error, outcome->log);
    count(*outcome->kernel);
    module_of(*outcome->kernel);
  }
}

void KernelLibrary::serve(const Family& family, const Params& problem, const Params& config) {
  const Params rounded = bucketed(family, problem);
  ready_.insert_or_assign(key_of(family.name(), rounded),
                          make(family, rounded, config, std::nullopt));
}

void KernelLibrary::forget(const Family& family, const Params& problem) {
  ready_.erase(key_of(family.name(), bucketed(family, problem)));
}

void KernelLibrary::record(const TuningRecord& record) {
  KernelCatalog::record(record);
  ready_.erase(key_of(record.family, record.problem));
}

void KernelLibrary::note_record(const TuningRecord& record) {
  records_.note(record);
  ready_.erase(key_of(record.family, record.problem));
}

}  // namespace quern
