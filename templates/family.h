#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/base/arch.h"
#include "runtime/base/dtype.h"
#include "runtime/base/launch_plan.h"
#include "runtime/base/tensor_map_spec.h"
#include "templates/params.h"
#include "templates/ranked_space.h"

namespace quern {

/// One tensor that a kernel reads or writes, described well enough to make a trial of it.
struct OperandSpec {
  enum class Role { in, inout, out };
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;  // row-major, contiguous
  Role role = Role::in;
  /// Random normal contents of this standard deviation, for floating types without `values`.
  double stddev = 1.0;
  /// Explicit contents for integer operands (lengths, block tables, ids); as many as elements.
  std::vector<std::int32_t> values;
  /// Random contents from first to second, for integer types without `values` (i4 excepted); else
  /// random bits.
  std::optional<std::pair<std::int32_t, std::int32_t>> range = std::nullopt;
  /// Magnitudes instead of normal values: for what a logarithm or a root is taken of.
  bool positive = false;
  /// Uniform contents from first to second instead, for floating types: for scales, of which a very
  /// small one would hide what is wrong with all that it scales.
  std::optional<std::pair<double, double>> between = std::nullopt;

  std::size_t num_elements() const;
  std::size_t size_bytes() const { return bytes_for(dtype, num_elements()); }
};

/// Host copy of one operand.
struct HostTensor {
  OperandSpec spec;
  std::vector<std::byte> data;
};

/// CUDA source of one config: a short generated stub that defines Config and includes templates.
struct KernelSource {
  std::string source;
  std::string entry;  // extern "C" name of the kernel
  std::vector<std::string> options;
};

/// The least a problem must move and compute, for rooflines and ranking.
struct Cost {
  double bytes = 0;
  double flops = 0;
};

/// |out - ref| <= abs + rel * |ref| for every element. Integers must be equal unless `share` says
/// how many may differ.
struct Tolerance {
  double abs = 0;
  double rel = 0;
  /// Of the elements of an integer output those that may miss rel * |ref|, by abs at most; one at
  /// least. Where f32 arithmetic is rounded to an integer, another order of summation decides a
  /// near tie the other way. 0: all must be equal.
  double share = 0;
};

/// A product that a vendor library computes: Y[m, n] = X[m, k] · W[n, k]ᵀ, all row-major and
/// contiguous, the family's operands being X, W and Y in this order. `rank`: which of the library's
/// algorithms for this shape, 0 being its own first choice. Where `scaled`, the operands are X, W,
/// a scale of X, a scale of W (an f32 each) and Y. `fast_sums`: products of e4m3 are summed by the
/// tensor cores alone. Products of i8 end as i32.
struct LibraryMatmul {
  int m = 0, n = 0, k = 0;
  DType input = DType::bf16, output = DType::bf16;
  int rank = 0;
  bool scaled = false, fast_sums = false;
};

/// A problem of a family by its name.
struct FamilyProblem {
  std::string family;
  Params problem;
};

/// One tunable and the values that its space declares.
struct Tunable {
  std::string name;
  std::vector<Params> values;
};

/// The host descriptor of a kernel family. Pure functions of problem, config and architecture: no
/// device, no files, no state. Problems and configs travel as Params; each family's header has the
/// typed structs. Every function throws InputError for malformed Params and nothing else.
///
/// A kernel takes one parameter, a struct passed by value (pack_args). Problem fields that vary by
/// request (dynamic_fields: num_tokens, m, batch, ...) are arguments; all others are compile-time
/// constants, so one image serves every value of the dynamic fields.
class Family {
 public:
  virtual ~Family() = default;
  virtual std::string_view name() const = 0;
  virtual std::vector<std::string> dynamic_fields() const = 0;
  /// Those of this problem, where it depends on the problem; none if it is malformed.
  virtual std::vector<std::string> dynamic_fields_of(const Params& problem) const;
  /// The problem that configs of `problem` are checked at: a smaller one where that tells as much,
  /// so that an oracle on the CPU and copies to the host take no longer than the tuning.
  virtual Params check_problem(const Params& problem) const;

  /// The declared space, for validation of imported configs.
  virtual std::vector<Tunable> space(const Params& problem) const = 0;
  /// The whole declared space, pruned of what cannot run on `arch` or would plainly waste it, and
  /// ranked by estimate_us(); of configs that come to the same kernel and launch it has one. The
  /// default leads. Never empty for a legal problem. It takes milliseconds: to be asked for when
  /// something is tuned, not when something is run. Here: the product of space(), filtered by
  /// reject_reason(); families with many tunables enumerate theirs. Throws InputError if that
  /// product has more than a million points.
  virtual RankedSpace ranked_space(const Params& problem, const Arch& arch) const;
  /// The configs of ranked_space().
  std::vector<Params> candidates(const Params& problem, const Arch& arch) const {
    return ranked_space(problem, arch).configs;
  }
  /// What runs when nothing has been tuned, legal on `arch`. Meant to be cheap: a run asks for it
  /// once per untuned problem. Here: the first of ranked_space().
  virtual Params default_config(const Params& problem, const Arch& arch) const;
  /// The analytic model: microseconds that a legal config is expected to take, from bytes, flops,
  /// waves, occupancy and bytes in flight (templates/common/roofline.h). It serves to rank configs
  /// of one problem. Here: the least that cost() allows, the same for every config.
  virtual double estimate_us(const Params& problem, const Params& config, const Arch& arch) const;
  /// A problem whose fastest configs are among the fastest of this one too, config for config: it
  /// differs in what becomes of its results alone. A tuner that has measured it tries no others
  /// here. Here: none.
  virtual std::optional<FamilyProblem> like(const Params& problem) const;
  /// Why the problem itself cannot be served, or nothing.
  virtual std::optional<std::string> unsupported(const Params& problem, const Arch& arch) const = 0;
  /// Why this config cannot run this problem on this architecture, as a sentence; or nothing.
  virtual std::optional<std::string> reject_reason(const Params& problem, const Params& config,
                                                   const Arch& arch) const = 0;
  /// A naive config of the same family that serves as the oracle on the device (its kernel is
  /// itself tested against loops on the CPU); null where cpu_reference is the oracle instead.
  virtual Params reference_config(const Params& problem) const = 0;
  /// Fills the out and inout operands from the formula. Only called where reference_config is null.
  virtual void cpu_reference(const Params& problem, std::span<HostTensor> operands) const;

  /// True if the config names a vendor library's routine instead of a kernel of ours; source() and
  /// plan() are then not called.
  virtual bool is_library(const Params& config) const;
  /// What a config stands for that is_library; never called for others. As it is: m, n, k, dtype
  /// and out_dtype of the problem, and the config's algorithm.
  virtual LibraryMatmul library_matmul(const Params& problem, const Params& config) const;
  virtual KernelSource source(const Params& problem, const Params& config,
                              const Arch& arch) const = 0;
  virtual LaunchPlan plan(const Params& problem, const Params& config, const Arch& arch) const = 0;
  virtual std::vector<OperandSpec> operands(const Params& problem) const = 0;
  /// Bytes of the kernel's parameter struct. `addresses` are device addresses in operand order.
  virtual std::vector<std::byte> pack_args(const Params& problem, const Params& config,
                                           std::span<const std::uint64_t> addresses,
                                           std::uint64_t workspace) const = 0;
  /// The tensor maps in that struct, which pack_args leaves empty. Here: none.
  virtual std::vector<TensorMapSpec> tensor_maps(const Params& problem, const Params& config) const;
  virtual Cost cost(const Params& problem) const = 0;
  /// Of output operand `index`, from its dtype and the reduction length.
  virtual Tolerance tolerance(const Params& problem, std::size_t index) const = 0;
};

template <class Args>
std::vector<std::byte> args_bytes(const Args& args) {
  const auto* first = reinterpret_cast<const std::byte*>(&args);
  return {first, first + sizeof args};
}

}  // namespace quern
