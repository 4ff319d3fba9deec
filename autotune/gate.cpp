#include "autotune/gate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "autotune/operands.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

constexpr std::size_t kGuardBytes = 4096;
constexpr std::size_t kAlignment = 256;
/// Elements that are compared on the host. A large output takes it most of a second, which is a
/// hundred times what the device needs, and many candidates may be wrong in the same way.
constexpr std::size_t kLookedAt = 1 << 16;
constexpr unsigned char kGuard = 0xa5, kPoison = 0xff;  // all bits set is NaN in every float type

std::size_t aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

bool is_output(const OperandSpec& spec) { return spec.role != OperandSpec::Role::in; }

/// Copies the contents in, then doubles what is there until the operand is full.
void upload_repeated(CUdeviceptr to, std::size_t bytes, const std::vector<std::byte>& contents,
                     const Stream& stream) {
  std::size_t done = std::min(bytes, contents.size());
  copy_to_device(to, contents.data(), done, stream);
  while (done < bytes) {
    const std::size_t count = std::min(done, bytes - done);
    copy_on_device(to + done, to, count, stream);
    done += count;
  }
  stream.synchronize();  // the contents may go
}

}  // namespace

std::size_t OperandSet::size_bytes(const std::vector<OperandSpec>& specs) {
  std::size_t bytes = kGuardBytes;
  for (const OperandSpec& spec : specs) bytes += aligned(spec.size_bytes()) + kGuardBytes;
  return bytes;
}

OperandSet::OperandSet(const std::vector<OperandSpec>& specs, CUdeviceptr memory)
    : begin_(memory), size_bytes_(size_bytes(specs)) {
  CUdeviceptr at = begin_ + kGuardBytes;
  for (const OperandSpec& spec : specs) {
    addresses_.push_back(at);
    sizes_.push_back(spec.size_bytes());
    at += aligned(spec.size_bytes()) + kGuardBytes;
  }
}

OperandSet::OperandSet(const std::vector<OperandSpec>& specs) {
  Buffer own(size_bytes(specs));
  *this = OperandSet(specs, own.address());
  own_ = std::move(own);
}

void OperandSet::fill(const std::vector<OperandSpec>& specs, const TrialTools& tools,
                      const Stream& stream) {
  fill_bytes(begin_, kGuard, size_bytes_, stream);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].role == OperandSpec::Role::out || sizes_[i] == 0) continue;
    if (TrialTools::is_native(specs[i].dtype))
      tools.fill(addresses_[i], specs[i], i + 1, stream);
    else
      upload_repeated(addresses_[i], sizes_[i], trial_contents(specs[i], i + 1), stream);
  }
}

void OperandSet::copy_from(const OperandSet& other, const Stream& stream) {
  copy_on_device(begin_, other.begin_, size_bytes_, stream);
}

std::optional<std::size_t> OperandSet::broken_guard(const Stream& stream) const {
  const CUdeviceptr end = begin_ + size_bytes_;
  for (std::size_t i = 0; i <= sizes_.size(); ++i) {
    // From the end of the operand before (or the buffer's start) to the start of this one.
    const CUdeviceptr from = i == 0 ? begin_ : addresses_[i - 1] + sizes_[i - 1];
    const CUdeviceptr to = i == sizes_.size() ? end : addresses_[i];
    std::vector<unsigned char> bytes(static_cast<std::size_t>(to - from));
    copy_to_host(bytes.data(), from, bytes.size(), stream);
    stream.synchronize();
    if (std::any_of(bytes.begin(), bytes.end(), [](unsigned char b) { return b != kGuard; }))
      return i == 0 ? 0 : i - 1;
  }
  return std::nullopt;
}

Gate::Gate(KernelLibrary& library, const Family& family, const Params& problem,
           const Stream& stream, Use use)
    : context_(library.context()),
      stream_(stream),
      tools_(library.trial_tools()),
      problem_(problem),
      specs_(family.operands(problem)),
      operands_(specs_) {
  operands_.fill(specs_, tools_, stream_);
  if (use == Use::operands_only) return;
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    tolerances_.push_back(is_output(specs_[i]) ? family.tolerance(problem, i) : Tolerance{});
    pristine_.emplace_back();
    if (specs_[i].role != OperandSpec::Role::inout) continue;
    pristine_[i] = Buffer(specs_[i].size_bytes());
    copy_on_device(pristine_[i].address(), operands_.addresses()[i], specs_[i].size_bytes(),
                   stream_);
  }
  const Params reference = family.reference_config(problem);
  if (reference.is_null()) {
    expected_ = cpu_expectation(family);
  } else {
    run(library.load(family, problem, reference));
    copy_outputs(expected_);
    stream_.synchronize();
  }
  double error = 0;
  for (std::size_t i = 0; i < specs_.size(); ++i)
    if (is_output(specs_[i]) && complaint(i, expected_[i].address(), error))
      throw Error(fmt::format("the reference of {} {} gives NaN in '{}'", family.name(),
                              to_text(problem), specs_[i].name));
}

std::vector<Buffer> Gate::cpu_expectation(const Family& family) const {
  std::vector<HostTensor> tensors;
  for (std::size_t i = 0; i < specs_.size(); ++i)
    tensors.push_back(
        {specs_[i], specs_[i].role == OperandSpec::Role::out
                        ? std::vector<std::byte>(specs_[i].size_bytes())
                        : download(i, operands_.addresses()[i], {0, specs_[i].num_elements()})});
  family.cpu_reference(problem_, tensors);
  std::vector<Buffer> outputs(specs_.size());
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    if (!is_output(specs_[i])) continue;
    outputs[i] = Buffer(tensors[i].data.size());
    copy_to_device(outputs[i].address(), tensors[i].data.data(), tensors[i].data.size(), stream_);
  }
  stream_.synchronize();  // the tensors go
  return outputs;
}

void Gate::run(const ReadyKernel& kernel) {
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    const CUdeviceptr at = operands_.addresses()[i];
    if (specs_[i].role == OperandSpec::Role::out)
      fill_bytes(at, kPoison, specs_[i].size_bytes(), stream_);
    else if (specs_[i].role == OperandSpec::Role::inout)
      copy_on_device(at, pristine_[i].address(), specs_[i].size_bytes(), stream_);
  }
  const BoundKernel bound = kernel.bind(problem_);
  workspace_.reserve(bound.workspace_bytes(), stream_);
  bound.enqueue(stream_, operands_.addresses(), workspace_);
}

void Gate::copy_outputs(std::vector<Buffer>& to) const {
  to.resize(specs_.size());
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    if (!is_output(specs_[i])) continue;
    if (to[i].size_bytes() == 0) to[i] = Buffer(specs_[i].size_bytes());
    copy_on_device(to[i].address(), operands_.addresses()[i], to[i].size_bytes(), stream_);
  }
}

std::vector<std::byte> Gate::download(std::size_t operand, CUdeviceptr from,
                                      const ElementRange& range) const {
  const DType dtype = specs_[operand].dtype;
  std::vector<std::byte> bytes(bytes_for(dtype, range.count));
  copy_to_host(bytes.data(), from + bytes_for(dtype, range.first), bytes.size(), stream_);
  stream_.synchronize();
  return bytes;
}

ElementRange Gate::worth_a_look(std::size_t i, CUdeviceptr at) const {
  const OperandSpec& spec = specs_[i];
  const std::size_t count = spec.num_elements();
  if (!TrialTools::is_native(spec.dtype)) return {0, count};
  return around_worst(count, kLookedAt, [&](const ElementRange& range) {
    OperandSpec part = spec;
    part.shape = {static_cast<std::int64_t>(range.count)};
    const std::size_t offset = bytes_for(spec.dtype, range.first);
    return tools_
        .difference(at + offset, expected_[i].address() + offset, part, tolerances_[i], stream_)
        .error;
  });
}

std::optional<Verdict> Gate::complaint(std::size_t i, CUdeviceptr at, double& error) const {
  const CUdeviceptr expected = expected_[i].address();
  const auto found = tools_.difference(at, expected, specs_[i], tolerances_[i], stream_);
  // The reference itself is compared with itself, to find NaN; bits alone do not show that.
  const bool equal = found.num_unequal == 0 && at != expected;
  if (TrialTools::is_native(specs_[i].dtype) ? found.error <= 1 : equal) {
    error = std::max(error, found.error);
    return std::nullopt;
  }
  const ElementRange range = worth_a_look(i, at);
  const Comparison exact = compare_output(
      specs_[i], download(i, at, range), download(i, expected, range), tolerances_[i], range.first);
  error = std::max(error, exact.error);
  if (exact.error <= 1) return std::nullopt;
  return Verdict{TrialStatus::wrong_result,
                 fmt::format("{} at {}", exact.complaint, to_text(problem_)), exact.error};
}

std::optional<Verdict> Gate::dirty_counters(const ReadyKernel& kernel, double error) {
  if (kernel.workspace_bytes(problem_) == 0) return std::nullopt;
  std::vector<unsigned char> counters(Workspace::kCounterBytes);
  copy_to_host(counters.data(), workspace_.address(), counters.size(), stream_);
  stream_.synchronize();
  if (std::all_of(counters.begin(), counters.end(), [](unsigned char b) { return b == 0; }))
    return std::nullopt;
  fill_bytes(workspace_.address(), 0, workspace_.size_bytes(), stream_);
  return Verdict{TrialStatus::wrong_result, "the workspace's counters were not left at zero",
                 error};
}

Verdict Gate::check(const ReadyKernel& kernel) {
  try {
    run(kernel);
    copy_outputs(first_);
    run(kernel);
    double error = 0;
    for (std::size_t i = 0; i < specs_.size(); ++i)
      if (is_output(specs_[i]))
        if (auto verdict = complaint(i, first_[i].address(), error)) return *verdict;
    for (std::size_t i = 0; i < specs_.size(); ++i)
      if (is_output(specs_[i]) &&
          tools_.difference(operands_.addresses()[i], first_[i].address(), specs_[i], {}, stream_)
                  .num_unequal > 0)
        return {TrialStatus::unstable_result, "two runs on equal inputs differ", error};
    if (const auto operand = operands_.broken_guard(stream_)) {
      operands_.fill(specs_, tools_, stream_);  // the next candidate is not to blame
      return {TrialStatus::wrong_result,
              fmt::format("memory beside '{}' was written to", specs_[*operand].name), error};
    }
    if (auto verdict = dirty_counters(kernel, error)) return *verdict;
    return {TrialStatus::ok, "", error};
  } catch (const OutOfMemoryError&) {
    throw;
  } catch (const CudaError& failure) {
    return {TrialStatus::launch_failed, failure.what(), 0};
  } catch (const InputError& failure) {  // the config cannot serve these sizes
    return {TrialStatus::rejected, failure.what(), 0};
  }
}

Gates::Gates(KernelLibrary& library, const Family& family, const Params& problem,
             const Stream& stream)
    : library_(library) {
  const Params checked = family.check_problem(problem);
  if (checked != problem)
    timed_ = std::make_unique<Gate>(library, family, problem, stream, Gate::Use::operands_only);
  gates_.push_back(std::make_unique<Gate>(library, family, checked, stream));
  const auto odd = odd_problem(family, checked, library.arch());
  if (!odd) return;
  // Twice, for the copies of inout operands; the tuner wants some room too.
  if (2 * OperandSet::size_bytes(family.operands(*odd)) > library.context().free_bytes() / 2)
    return;
  gates_.push_back(std::make_unique<Gate>(library, family, *odd, stream));
}

Verdict Gates::check(const ReadyKernel& kernel) {
  Verdict worst;
  for (const auto& gate : gates_) {
    Verdict verdict = gate->check(kernel);
    if (verdict.status == TrialStatus::launch_failed) {
      // After an illegal access every further call fails: say so rather than blame the others.
      try {
        library_.context().synchronize();
      } catch (const CudaError&) {
        throw CudaError(fmt::format("the GPU was lost while trying {}: {}", kernel.description(),
                                    verdict.reason),
                        0);
      }
    }
    if (verdict.status != TrialStatus::ok) return verdict;
    worst.error = std::max(worst.error, verdict.error);
  }
  return worst;
}

Verdict gate_config(KernelLibrary& library, const Family& family, const Params& problem,
                    const Params& config) {
  const Stream stream;
  const ReadyKernel kernel = library.load(family, problem, config);
  return Gates(library, family, problem, stream).check(kernel);
}

}  // namespace quern
