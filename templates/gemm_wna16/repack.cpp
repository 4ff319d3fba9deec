#include "templates/gemm_wna16/repack.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "templates/common/roofline.h"
#include "templates/common/stub.h"
#include "templates/common/tunables.h"
#include "templates/gemm_wna16/gemm_wna16_args.h"
#include "templates/gemm_wna16/repack_args.h"

namespace quern {
namespace {

using Reason = std::optional<std::string>;
using Problem = Wna16RepackProblem;

struct RepackConfig {
  std::string kernel = "tiles";  // tiles; rows, for reordered columns of gptq
  int threads = kRepackThreads;
  static constexpr auto fields() {
    using C = RepackConfig;
    return std::tuple{std::pair{"kernel", &C::kernel}, std::pair{"threads", &C::threads}};
  }
  bool operator==(const RepackConfig&) const = default;
};

bool is_gptq(const Problem& p) { return p.source == "gptq" || p.source == "gptq_v2"; }
bool by_row(const Problem& p) { return p.source == "packed" || p.source == "int8"; }
int bits(const Problem& p) { return p.source == "int8" ? 8 : 4; }

Reason refusal(const Problem& p) {
  constexpr int kMaxExtent = 1 << 20;
  if (p.part != "codes" && p.part != "scales" && p.part != "zeros")
    return fmt::format("codes, scales and zeros are repacked, not '{}'", p.part);
  if (p.source != "awq" && !is_gptq(p) && !by_row(p))
    return fmt::format("'{}' is not awq, gptq, gptq_v2, packed or int8", p.source);
  if (p.n < 16 || p.n > kMaxExtent || p.n % 16 != 0)
    return fmt::format("n = {} is not a multiple of 16", p.n);
  if (p.k < 64 || p.k > kMaxExtent || p.k % 64 != 0)
    return fmt::format("k = {} is not a multiple of 64", p.k);
  if (p.group_size < 32 || p.k % p.group_size != 0)
    return fmt::format("k = {} is not whole groups of {}", p.k, p.group_size);
  if (p.part == "zeros" && by_row(p))
    return fmt::format("{} weights have no zero points", p.source);
  if (p.act_order && (p.part != "codes" || by_row(p)))
    return "an order of columns is for the codes of awq and gptq";
  return std::nullopt;
}

/// rows: the codes of 16 whole rows, 8 bytes a column.
int smem_bytes(const Problem& p, const RepackConfig& c) { return c.kernel == "rows" ? p.k * 8 : 0; }

Reason rejection(const Problem& p, const RepackConfig& c, const Arch& arch) {
  if (c.kernel == "tiles") {
    if (c.threads == kRepackThreads) return std::nullopt;
    return fmt::format("threads = {} is not {}", c.threads, kRepackThreads);
  }
  if (c.kernel != "rows") return fmt::format("kernel '{}' is not tiles or rows", c.kernel);
  if (!is_gptq(p) || !p.act_order) return "whole rows are for gptq's reordered columns";
  if (c.threads != 256 && c.threads != 512 && c.threads != 1024)
    return fmt::format("threads = {} is not 256, 512 or 1024", c.threads);
  return too_much_smem(smem_bytes(p, c), 1, arch);
}

/// How often memory is read, or stands idle, compared with the best that a kernel could do.
double slowdown(const Problem& p, const RepackConfig& c, const Arch& arch) {
  if (!is_gptq(p) || !p.act_order) return 1;
  if (c.kernel == "tiles") return 3;  // each word of reordered columns comes eight times, from L2
  constexpr double kBusyThreads = 1024;  // of an SM
  const int blocks = arch.smem_per_sm_bytes / (smem_bytes(p, c) + 1024);
  return std::max(1.0, kBusyThreads / (blocks * c.threads));
}

Problem problem_from(const Params& params) {
  const auto p = from_params<Problem>(params);
  if (const auto why = refusal(p)) throw InputError(*why);
  return p;
}

template <class T>
T at(const HostTensor& tensor, std::size_t index) {
  T value;
  std::memcpy(&value, tensor.data.data() + index * sizeof(T), sizeof(T));
  return value;
}

class RepackFamily final : public Family {
 public:
  std::string_view name() const override { return "wna16_repack"; }
  std::vector<std::string> dynamic_fields() const override { return {}; }
  std::vector<Tunable> space(const Params& problem) const override {
    problem_from(problem);
    return {{"kernel", {"rows", "tiles"}}, {"threads", {256, 512, 1024}}};
  }
  double estimate_us(const Params& problem, const Params& config, const Arch& arch) const override {
    const Problem p = problem_from(problem);
    return kLaunchUs + kNoPdlUs +
           slowdown(p, from_params<RepackConfig>(config), arch) * cost(problem).bytes /
               (0.8e3 * arch.dram_gbps);
  }
  Reason unsupported(const Params& problem, const Arch&) const override {
    return refusal(from_params<Problem>(problem));
  }
  Reason reject_reason(const Params& problem, const Params& config,
                       const Arch& arch) const override {
    const auto p = from_params<Problem>(problem);
    if (auto why = refusal(p)) return why;
    return rejection(p, from_params<RepackConfig>(config), arch);
  }
  Params reference_config(const Params&) const override { return nullptr; }

  KernelSource source(const Params& problem, const Params& config,
                      const Arch& arch) const override {
    const Problem p = problem_from(problem);
    if (const auto why = reject_reason(problem, config, arch)) throw InputError(*why);
    const auto c = from_params<RepackConfig>(config);
    const bool rows = c.kernel == "rows";
    const std::string run = rows ? fmt::format("RepackReordered<Problem, {}>::run", c.threads)
                            : p.part == "codes" ? "RepackCodes<Problem>::run"
                                                : fmt::format("RepackGroups<Problem>::{}", p.part);
    return {fmt::format("#include \"gemm_wna16/{}.cuh\"\n\n"
                        "struct Problem {{\n"
                        "  static constexpr int n = {}, k = {}, group_size = {}, bits = {};\n"
                        "  static constexpr auto source = quern::RepackSource::{};\n"
                        "  static constexpr bool interleaved = {};\n}};\n"
                        "extern \"C\" __global__ void __launch_bounds__({})\n"
                        "wna16_repack(const quern::RepackArgs args) {{\n  quern::{}(args);\n}}\n",
                        rows ? "repack_reordered" : "repack", p.n, p.k, p.group_size, bits(p),
                        p.source, p.interleaved, c.threads, run),
            "wna16_repack",
            {}};
  }
  LaunchPlan plan(const Params& problem, const Params& config, const Arch& arch) const override {
    const Problem p = problem_from(problem);
    if (const auto why = reject_reason(problem, config, arch)) throw InputError(*why);
    const auto c = from_params<RepackConfig>(config);
    const std::int64_t blocks =
        c.kernel == "rows" ? p.n / kWna16UnitRows
        : p.part == "codes"
            ? std::int64_t{p.k / kRepackColumns} * ((p.n + kRepackRows - 1) / kRepackRows)
            : (std::int64_t{p.n} * (p.k / p.group_size) + kRepackThreads - 1) / kRepackThreads;
    LaunchPlan plan;
    plan.grid[0] = static_cast<unsigned>(blocks);
    plan.block[0] = static_cast<unsigned>(c.threads);
    plan.smem_bytes = static_cast<unsigned>(smem_bytes(p, c));
    return plan;
  }

  std::vector<OperandSpec> operands(const Params& problem) const override {
    const Problem p = problem_from(problem);
    using Role = OperandSpec::Role;
    const std::int64_t n = p.n, k = p.k, groups = k / p.group_size;
    const std::int64_t rows = p.interleaved ? n / 2 : n;  // of a matrix
    OperandSpec in{"in", DType::i32, {}, Role::in, 1.0, {}};
    OperandSpec out{"out", DType::u8, {n / 16, groups, 8, 2}, Role::out, 1.0, {}};
    if (p.part == "codes") {
      if (p.source == "awq") in.shape = {k, rows / 8};
      if (is_gptq(p)) in.shape = {k / 8, rows};
      if (p.source == "packed") in.shape = {rows, k / 8};
      if (p.source == "int8") in.shape = {rows, k}, in.dtype = DType::i8;
      out.shape = {n / 16, k / wna16_unit_columns(bits(p)), kWna16UnitBytes};
    } else if (p.part == "scales") {
      in.dtype = out.dtype = DType::f16;
      in.shape = {by_row(p) ? rows : groups, by_row(p) ? groups : rows};
    } else {
      in.shape = {groups, rows / 8};
    }
    if (p.interleaved) in.shape.insert(in.shape.begin(), 2);
    if (!p.act_order) return {in, out};
    OperandSpec order{"order", DType::i32, {k}, Role::in, 1.0, {}};
    // A permutation that sends neighbours far away: an odd stride and a k that it does not divide.
    const std::int64_t stride = std::gcd(k, std::int64_t{37}) == 1 ? 37 : 41;
    for (std::int64_t i = 0; i < k; ++i)
      order.values.push_back(static_cast<std::int32_t>(i * stride % k));
    return {in, order, out};
  }
  std::vector<std::byte> pack_args(const Params& problem, const Params&,
                                   std::span<const std::uint64_t> addresses,
                                   std::uint64_t) const override {
    const Problem p = problem_from(problem);
    require_operands(name(), addresses, p.act_order ? 3 : 2);
    RepackArgs args{};
    args.in = device_pointer(addresses[0]);
    args.order = p.act_order ? device_pointer<const int>(addresses[1]) : nullptr;
    args.out = device_pointer(addresses.back());
    return args_bytes(args);
  }
  Cost cost(const Params& problem) const override {
    double bytes = 0;
    for (const OperandSpec& spec : operands(problem))
      bytes += static_cast<double>(spec.size_bytes());
    return {bytes, 0};
  }
  Tolerance tolerance(const Params&, std::size_t) const override { return {}; }

  void cpu_reference(const Params& problem, std::span<HostTensor> operands) const override {
    const Problem p = problem_from(problem);
    const HostTensor& in = operands[0];
    HostTensor& out = operands.back();
    out.data.assign(out.spec.size_bytes(), std::byte{0});
    const auto n = static_cast<std::size_t>(p.n), k = static_cast<std::size_t>(p.k);
    const std::size_t groups = k / static_cast<std::size_t>(p.group_size);
    const std::size_t rows = p.interleaved ? n / 2 : n;              // of a matrix
    constexpr std::size_t kAwqNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of a row
    for (std::size_t row = 0; row < n; ++row) {
      const std::size_t awq = kAwqNibble[row % 8];
      const std::size_t matrix = p.interleaved ? row / 8 % 2 : 0;
      const std::size_t in_row = p.interleaved ? row / 16 * 8 + row % 8 : row;  // of its matrix
      if (p.part != "codes") {
        for (std::size_t group = 0; group < groups; ++group) {
          const std::size_t to = (row / 16 * groups + group) * 16 + row % 8 * 2 + row % 16 / 8;
          if (p.part == "scales") {
            const std::size_t from = matrix * rows * groups +
                                     (by_row(p) ? in_row * groups + group : group * rows + in_row);
            std::memcpy(out.data.data() + to * 2, in.data.data() + from * 2, 2);
          } else {
            const auto word =
                at<std::uint32_t>(in, (matrix * groups + group) * (rows / 8) + in_row / 8);
            const std::size_t nibble = p.source == "awq" ? awq : row % 8;
            const unsigned zero = (word >> (4 * nibble) & 15u) + (p.source == "gptq" ? 1u : 0u);
            out.data[to] = static_cast<std::byte>(zero);
          }
        }
        continue;
      }
      for (std::size_t c = 0; c < k; ++c) {
        const std::size_t from =
            p.act_order ? static_cast<std::size_t>(at<std::int32_t>(operands[1], c)) : c;
        unsigned code = 0;
        if (p.source == "awq")
          code = at<std::uint32_t>(in, (matrix * k + from) * (rows / 8) + in_row / 8) >> (4 * awq) &
                 15u;
        else if (is_gptq(p))
          code = at<std::uint32_t>(in, (matrix * (k / 8) + from / 8) * rows + in_row) >>
                     (4 * (from % 8)) &
                 15u;
        else if (p.source == "packed")
          code =
              at<std::uint32_t>(in, ((matrix * rows + in_row) * k + c) / 8) >> (4 * (c % 8)) & 15u;
        else
          code = static_cast<unsigned>(at<std::int8_t>(in, (matrix * rows + in_row) * k + c) + 128);
        const auto unit_columns = static_cast<std::size_t>(wna16_unit_columns(bits(p)));
        const std::size_t unit = row / 16 * (k / unit_columns) + c / unit_columns;
        const std::size_t step = c % unit_columns / 16, lane = row % 8 * 4 + c % 8 / 2;
        const std::size_t reg = row % 16 / 8 + c % 16 / 8 * 2, half = c % 2;
        const std::size_t first = unit * kWna16UnitBytes + lane * 16;
        if (bits(p) == 4)
          out.data[first + step * 4 + (reg + 4 * half) / 2] |=
              static_cast<std::byte>(code << (reg % 2 * 4));
        else
          out.data[first + step * 8 + reg / 2 * 4 + reg % 2 + 2 * half] =
              static_cast<std::byte>(code);
      }
    }
  }
};

}  // namespace

std::unique_ptr<Family> make_wna16_repack_family() { return std::make_unique<RepackFamily>(); }

}  // namespace quern
