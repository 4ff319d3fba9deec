#include "templates/utility/utility.h"

#include <algorithm>

#include "templates/common/roofline.h"
#include "templates/utility/utility_args.h"

namespace quern {
namespace {

struct GridConfig {
  int threads = 256;
  int unroll = 8;  // independent accesses per thread
  int blocks_per_sm = 4;
  static constexpr auto fields() {
    using C = GridConfig;
    return std::tuple{std::pair{"threads", &C::threads}, std::pair{"unroll", &C::unroll},
                      std::pair{"blocks_per_sm", &C::blocks_per_sm}};
  }
  bool operator==(const GridConfig&) const = default;
};

constexpr int kThreads[] = {256, 512}, kUnrolls[] = {4, 8, 16}, kBlocksPerSm[] = {1, 2, 4, 8};

/// What both utilities share: a grid sized by the device, a flat space, no reference.
class UtilityFamily : public Family {
 public:
  std::vector<Tunable> space(const Params&) const override {
    return {{"threads", values_of(kThreads)},
            {"unroll", values_of(kUnrolls)},
            {"blocks_per_sm", values_of(kBlocksPerSm)}};
  }
  RankedSpace ranked_space(const Params& problem, const Arch& arch) const override {
    std::vector<GridConfig> points;
    for (const int threads : kThreads)
      for (const int unroll : kUnrolls)
        for (const int blocks : kBlocksPerSm) points.push_back({threads, unroll, blocks});
    return rank_points(
        GridConfig{}, points,
        [&](const GridConfig& c) { return reject_reason(problem, to_params(c), arch); },
        [&](const GridConfig& c) { return estimate_us(problem, to_params(c), arch); });
  }
  Params default_config(const Params&, const Arch&) const override {
    return to_params(GridConfig{});
  }
  double estimate_us(const Params& problem, const Params& config, const Arch& arch) const override {
    const auto c = from_params<GridConfig>(config);
    const double in_flight = 16.0 * c.threads * c.unroll * c.blocks_per_sm;
    return kLaunchUs + cost(problem).bytes / dram_rate(arch, arch.num_sms, in_flight);
  }
  std::optional<std::string> unsupported(const Params&, const Arch&) const override {
    return std::nullopt;
  }
  std::optional<std::string> reject_reason(const Params&, const Params& config,
                                           const Arch& arch) const override {
    const auto c = from_params<GridConfig>(config);
    if (c.threads < 32 || c.unroll < 1 || c.blocks_per_sm < 1 ||
        c.threads * c.blocks_per_sm > arch.max_threads_per_sm)
      return fmt::format("{} blocks of {} threads do not fit an SM of {} threads", c.blocks_per_sm,
                         c.threads, arch.max_threads_per_sm);
    return std::nullopt;
  }
  Params reference_config(const Params&) const override { return nullptr; }
  LaunchPlan plan(const Params&, const Params& config, const Arch& arch) const override {
    const auto c = from_params<GridConfig>(config);
    LaunchPlan plan;
    plan.grid[0] = static_cast<unsigned>(c.blocks_per_sm * arch.num_sms);
    plan.block[0] = static_cast<unsigned>(c.threads);
    return plan;
  }
  Tolerance tolerance(const Params&, std::size_t) const override { return {}; }
};

std::string stub(const std::string& header, const Params& config, const std::string& kernel) {
  return fmt::format("#include \"utility/{}.cuh\"\nusing namespace quern;\n{}{}", header,
                     config_struct(config), kernel);
}

class FillFamily final : public UtilityFamily {
 public:
  std::string_view name() const override { return "fill"; }
  std::vector<std::string> dynamic_fields() const override { return {"count", "stddev", "seed"}; }
  KernelSource source(const Params& problem, const Params& config, const Arch&) const override {
    const auto p = from_params<FillProblem>(problem);
    const auto c = from_params<GridConfig>(config);
    const std::string fill =
        p.dtype == DType::i32
            ? "fill_bits"
            : fmt::format("fill_normal<{}>",
                          p.dtype == DType::f32 ? "float" : quern::name(p.dtype));
    return {stub("fill", config,
                 fmt::format("extern \"C\" __global__ void __launch_bounds__({}) quern_fill(const "
                             "__grid_constant__ FillArgs args) {{\n  {}(args);\n}}\n",
                             c.threads, fill)),
            "quern_fill",
            {}};
  }
  std::vector<OperandSpec> operands(const Params& problem) const override {
    const auto p = from_params<FillProblem>(problem);
    return {{"out", p.dtype, {p.count}, OperandSpec::Role::out, 1.0, {}}};
  }
  std::vector<std::byte> pack_args(const Params& problem, const Params&,
                                   std::span<const std::uint64_t> addresses,
                                   std::uint64_t) const override {
    const auto p = from_params<FillProblem>(problem);
    FillArgs args{};
    args.out = reinterpret_cast<void*>(addresses[0]);
    args.count = static_cast<unsigned long long>(p.count);
    args.seed = static_cast<unsigned long long>(p.seed);
    args.stddev = static_cast<float>(p.stddev);
    return args_bytes(args);
  }
  Cost cost(const Params& problem) const override {
    const auto p = from_params<FillProblem>(problem);
    return {static_cast<double>(bytes_for(p.dtype, static_cast<std::size_t>(p.count))), 0};
  }
};

class StreamFamily final : public UtilityFamily {
 public:
  std::string_view name() const override { return "stream"; }
  std::vector<std::string> dynamic_fields() const override { return {"words"}; }
  KernelSource source(const Params&, const Params& config, const Arch&) const override {
    const auto c = from_params<GridConfig>(config);
    return {stub("stream", config,
                 fmt::format("extern \"C\" __global__ void __launch_bounds__({}) quern_stream("
                             "const __grid_constant__ StreamArgs args) {{\n"
                             "  stream_read<Config>(args);\n}}\n",
                             c.threads)),
            "quern_stream",
            {}};
  }
  std::vector<OperandSpec> operands(const Params& problem) const override {
    const auto p = from_params<StreamProblem>(problem);
    return {{"in", DType::f32, {p.words * 4}, OperandSpec::Role::in, 1.0, {}},
            {"out", DType::f32, {1}, OperandSpec::Role::inout, 1.0, {}}};
  }
  std::vector<std::byte> pack_args(const Params& problem, const Params&,
                                   std::span<const std::uint64_t> addresses,
                                   std::uint64_t) const override {
    StreamArgs args{};
    args.in = reinterpret_cast<const void*>(addresses[0]);
    args.out = reinterpret_cast<float*>(addresses[1]);
    args.words = static_cast<unsigned long long>(from_params<StreamProblem>(problem).words);
    return args_bytes(args);
  }
  Cost cost(const Params& problem) const override {
    return {16.0 * static_cast<double>(from_params<StreamProblem>(problem).words), 0};
  }
};

}  // namespace

std::unique_ptr<Family> make_fill_family() { return std::make_unique<FillFamily>(); }
std::unique_ptr<Family> make_stream_family() { return std::make_unique<StreamFamily>(); }

}  // namespace quern
