#include "templates/attention/decode_attention.h"

#include <algorithm>

#include "templates/attention/attention_args.h"
#include "templates/attention/paged_cache.h"
#include "templates/common/roofline.h"
#include "templates/common/stub.h"
#include "templates/common/workspace_args.h"

namespace quern {
namespace {

constexpr int kMaxSplits = 128;
constexpr int kSplits[] = {0, 1, 2, 4, 8, 16, 32, 64, 128};
constexpr int kWarps[] = {1, 2, 4, 8}, kTokens[] = {16, 32, 64}, kStages[] = {1, 2, 3, 4, 6};
constexpr int kBlocksPerSm[] = {1, 2, 3, 4};

std::optional<std::string> complaint(const DecodeAttentionProblem& p) {
  if (auto c = PagedHeads{p.num_heads, p.num_kv_heads, p.head_dim, p.page_size, p.num_pages,
                          p.max_blocks, p.batch, p.dtype}
                   .complaint())
    return c;
  if (auto c = out_of_range("window", p.window, 0, 1 << 30)) return c;
  return out_of_range("max_kv_len", p.max_kv_len, 1,
                      static_cast<std::int64_t>(p.max_blocks) * p.page_size);
}

DecodeAttentionProblem parse(const Params& params) {
  const auto problem = from_params<DecodeAttentionProblem>(params);
  if (const auto reason = complaint(problem)) throw InputError(*reason);
  return problem;
}

int group_of(const DecodeAttentionProblem& p) { return p.num_heads / p.num_kv_heads; }

int ring_bytes(const DecodeAttentionProblem& p, const DecodeAttentionConfig& c) {
  return decode_smem_bytes(p.head_dim, group_of(p), c.warps, c.tokens, c.stages);
}

/// Registers of a thread, from the fragments that live through the loop and a measured remainder.
int estimated_registers(const DecodeAttentionProblem& p, const DecodeAttentionConfig& c) {
  const int dim_tiles = (p.head_dim + 15) / 16, head_tiles = (group_of(p) + 7) / 8;
  return 52 + dim_tiles * head_tiles * 6 + c.tokens / 16 * head_tiles * 5;
}

std::optional<std::string> complaint(const DecodeAttentionProblem& p,
                                     const DecodeAttentionConfig& c, const Arch& arch) {
  if (c.kernel != "mma" && c.kernel != "reference")
    return "the kernel is neither 'mma' nor 'reference'";
  if (auto out = out_of_range("warps", c.warps, 1, 16)) return out;
  if (auto out = out_of_range("stages", c.stages, 1, 8)) return out;
  if (auto out = out_of_range("blocks_per_sm", c.blocks_per_sm, 1, 8)) return out;
  if (auto out = out_of_range("splits", c.splits, 0, kMaxSplits)) return out;
  if (c.tokens != 16 && c.tokens != 32 && c.tokens != 64)
    return fmt::format("steps of {} tokens are not 16, 32 or 64", c.tokens);
  if (c.pdl && !arch.has_pdl())
    return fmt::format("{} has no programmatic dependent launch", arch.name());
  if (c.kernel == "reference") return std::nullopt;
  if (p.page_size % c.tokens != 0)
    return fmt::format("steps of {} tokens do not divide pages of {}", c.tokens, p.page_size);
  const int smem = ring_bytes(p, c) + 1024;  // what the driver keeps per block, and our own
  if (smem > arch.smem_per_block_bytes)
    return fmt::format("{} bytes of shared memory exceed the {} of a block", smem,
                       arch.smem_per_block_bytes);
  if (smem * c.blocks_per_sm > arch.smem_per_sm_bytes)
    return fmt::format("{} blocks of {} bytes of shared memory exceed the {} of an SM",
                       c.blocks_per_sm, smem, arch.smem_per_sm_bytes);
  const int registers = std::min(255, arch.registers_per_sm / (c.warps * 32 * c.blocks_per_sm));
  if (estimated_registers(p, c) > registers)
    return fmt::format("about {} registers a thread exceed the {} that {} blocks per SM leave",
                       estimated_registers(p, c), registers, c.blocks_per_sm);
  return std::nullopt;
}

int splits_of(const DecodeAttentionProblem& p, const DecodeAttentionConfig& c, const Arch& arch) {
  const int units = p.batch * p.num_kv_heads;
  if (units > kMaxCounters) return 1;
  const int longest = p.window > 0 ? std::min(p.max_kv_len, p.window + c.tokens) : p.max_kv_len;
  const int step = c.tokens * c.warps;
  const int useful = std::min(kMaxSplits, (longest + step - 1) / step);
  const int wanted = c.splits > 0 ? c.splits : arch.num_sms * c.blocks_per_sm / units;
  return std::clamp(wanted, 1, useful);
}

/// Splits other than the automatic choice that lead to another grid than it, and than each other.
std::vector<int> distinct_splits(const DecodeAttentionProblem& p, DecodeAttentionConfig c,
                                 const Arch& arch) {
  c.splits = 0;
  std::vector<int> out{0}, grids{splits_of(p, c, arch)};
  for (const int splits : kSplits) {
    c.splits = splits;
    const int grid = splits_of(p, c, arch);
    if (splits == 0 || std::find(grids.begin(), grids.end(), grid) != grids.end()) continue;
    grids.push_back(grid);
    out.push_back(splits);
  }
  return out;
}

/// A block's time is its busiest warp's: a fixed part, and steps that each wait for what is slowest
/// of DRAM (Little's law with the rings' bytes in flight), the SM's share of L2, and the warp's own
/// chain from scores through softmax to sums. Splits add the merge of their partial results.
double predicted_us(const DecodeAttentionProblem& p, const DecodeAttentionConfig& c,
                    const Arch& arch) {
  const double visible = p.window > 0 ? std::min(p.window, p.max_kv_len) : p.max_kv_len;
  const double units = double(p.batch) * p.num_kv_heads;
  if (c.kernel == "reference")
    return kLaunchUs +
           lanes_us(arch, units * group_of(p) * visible * p.head_dim * 8 / arch.num_sms);
  const int splits = splits_of(p, c, arch);
  const double blocks = units * splits;
  const int most = std::max(
      1, std::min(resident_blocks(arch, c.warps * 32, estimated_registers(p, c), ring_bytes(p, c)),
                  arch.registers_per_sm / (32 * c.warps * 32)));
  const Waves waves = waves_of(blocks, most, arch);
  const double on_sm = std::max(1.0, std::min<double>(most, ceil_ratio(blocks, arch.num_sms)));
  const double steps = ceil_ratio(ceil_ratio(visible, c.tokens), c.warps * splits);
  const double step_bytes = 4.0 * c.tokens * p.head_dim;  // K and V, of a warp
  const double sm_bytes = on_sm * c.warps * step_bytes;
  const double in_flight = sm_bytes * std::max(0.5, c.stages - 0.5);
  const double dram = sm_bytes * waves.busy_sms / dram_rate(arch, waves.busy_sms, in_flight);
  // Scores and sums, a pair of mma and their fragments for each 16 x 16 of K and of V; softmax.
  const double head_tiles = (group_of(p) + 7) / 8, dim_tiles = (p.head_dim + 15) / 16;
  const double instructions = c.tokens / 16.0 * (dim_tiles * (4 + 4 * head_tiles) + 60) + 60;
  const double alone = (instructions * 3 + 300) / (arch.clock_ghz * 1e3);
  const double issue = lanes_us(arch, on_sm * c.warps * 32 * instructions);
  const double latency = c.stages > 1 ? kDramLatencyUs / c.stages : kDramLatencyUs + alone;
  const double step = overlapped({dram, sm_bytes / sm_rate(arch), alone, issue, latency});
  const double merge = splits > 1 ? 0.9 + 0.02 * splits : 0;
  return kLaunchUs + (c.pdl ? 0 : kNoPdlUs) + 2 * kDramLatencyUs +
         waves.rounds * (steps * step + 0.4 + 0.08 * c.warps) + merge;
}

/// The config, or InputError with the reason why it cannot run.
DecodeAttentionConfig legal(const DecodeAttentionProblem& problem, const Params& params,
                            const Arch& arch) {
  const auto config = from_params<DecodeAttentionConfig>(params);
  if (const auto reason = complaint(problem, config, arch)) throw InputError(*reason);
  return config;
}

/// The first that fits, from what is good on most GPUs to the smallest ring there is.
DecodeAttentionConfig usual_config(const DecodeAttentionProblem& problem, const Arch& arch) {
  struct Shape {
    int warps, tokens, stages, blocks_per_sm;
  };
  for (const Shape& s : {Shape{4, 16, 3, 2}, Shape{4, 16, 2, 2}, Shape{4, 16, 2, 1},
                         Shape{2, 16, 2, 1}, Shape{1, 16, 2, 1}, Shape{1, 16, 1, 1}}) {
    const DecodeAttentionConfig config{"mma",           s.warps, s.tokens,      s.stages,
                                       s.blocks_per_sm, 0,       arch.has_pdl()};
    if (!complaint(problem, config, arch)) return config;
  }
  DecodeAttentionConfig config;  // a huge head_dim with a small SM
  config.kernel = "reference";
  config.pdl = arch.has_pdl();
  return config;
}

}  // namespace

std::vector<std::string> DecodeAttentionFamily::dynamic_fields() const {
  return {"batch", "max_blocks", "num_pages", "max_kv_len"};
}

std::vector<Tunable> DecodeAttentionFamily::space(const Params&) const {
  return {{"kernel", {"mma", "reference"}},
          {"warps", values_of(kWarps)},
          {"tokens", values_of(kTokens)},
          {"stages", values_of(kStages)},
          {"blocks_per_sm", values_of(kBlocksPerSm)},
          {"splits", values_of(kSplits)},
          {"pdl", {true, false}}};
}

RankedSpace DecodeAttentionFamily::ranked_space(const Params& params, const Arch& arch) const {
  const auto problem = parse(params);
  // Always with PDL where there is such: a launch without it only begins later.
  std::vector<DecodeAttentionConfig> points;
  DecodeAttentionConfig c;
  c.pdl = arch.has_pdl();
  for (const int warps : kWarps)
    for (const int tokens : kTokens)
      for (const int stages : kStages)
        for (const int blocks_per_sm : kBlocksPerSm) {
          c.warps = warps, c.tokens = tokens, c.stages = stages, c.blocks_per_sm = blocks_per_sm;
          for (const int splits : distinct_splits(problem, c, arch)) {
            c.splits = splits;
            points.push_back(c);
          }
        }
  return rank_points(
      usual_config(problem, arch), points,
      [&](const DecodeAttentionConfig& config) { return complaint(problem, config, arch); },
      [&](const DecodeAttentionConfig& config) { return predicted_us(problem, config, arch); });
}

Params DecodeAttentionFamily::default_config(const Params& params, const Arch& arch) const {
  return to_params(usual_config(parse(params), arch));
}

double DecodeAttentionFamily::estimate_us(const Params& params, const Params& config,
                                          const Arch& arch) const {
  const auto problem = parse(params);
  return predicted_us(problem, legal(problem, config, arch), arch);
}

std::optional<std::string> DecodeAttentionFamily::unsupported(const Params& params,
                                                              const Arch&) const {
  return complaint(from_params<DecodeAttentionProblem>(params));
}

std::optional<std::string> DecodeAttentionFamily::reject_reason(const Params& params,
                                                                const Params& config,
                                                                const Arch& arch) const {
  return complaint(parse(params), from_params<DecodeAttentionConfig>(config), arch);
}

Params DecodeAttentionFamily::reference_config(const Params&) const {
  DecodeAttentionConfig config;
  config.kernel = "reference";
  config.pdl = false;
  return to_params(config);
}

KernelSource DecodeAttentionFamily::source(const Params& params, const Params& config_params,
                                           const Arch& arch) const {
  const auto problem = parse(params);
  const auto config = legal(problem, config_params, arch);
  const bool naive = config.kernel == "reference";
  const std::string entry = "quern_decode_attention";
  return {fmt::format("#include \"attention/{}.cuh\"\n{}{}"
                      "extern \"C\" __global__ void __launch_bounds__({}, {}) {}("
                      "const __grid_constant__ quern::DecodeArgs args) {{\n"
                      "  quern::{}<{}, Problem, Config>(args);\n}}\n",
                      naive ? "reference_attention" : "decode_attention",
                      config_struct(without(params, dynamic_fields()), "Problem"),
                      config_struct(without(config_params, {"splits", "pdl"})), config.warps * 32,
                      config.blocks_per_sm, entry, naive ? "decode_reference" : "decode_attention",
                      device_type(problem.dtype)),
          entry,
          {}};
}

LaunchPlan DecodeAttentionFamily::plan(const Params& params, const Params& config_params,
                                       const Arch& arch) const {
  const auto p = parse(params);
  const auto c = legal(p, config_params, arch);
  LaunchPlan plan;
  plan.block[0] = static_cast<unsigned>(c.warps * 32);
  plan.pdl = c.pdl;
  if (c.kernel == "reference") {
    plan.grid = {static_cast<unsigned>((p.num_heads + c.warps - 1) / c.warps),
                 static_cast<unsigned>(p.batch), 1};
    return plan;
  }
  const int splits = splits_of(p, c, arch);
  plan.grid = {static_cast<unsigned>(splits), static_cast<unsigned>(p.num_kv_heads),
               static_cast<unsigned>(p.batch)};
  const int weights = group_of(p) * splits * 4;
  plan.smem_bytes = static_cast<unsigned>(std::max(ring_bytes(p, c), weights));
  if (splits > 1)
    plan.workspace_bytes = kCounterBytes + sizeof(float) * static_cast<std::size_t>(p.batch) *
                                               static_cast<std::size_t>(p.num_heads) *
                                               static_cast<std::size_t>(splits) *
                                               static_cast<std::size_t>(p.head_dim + 2);
  return plan;
}

std::vector<OperandSpec> DecodeAttentionFamily::operands(const Params& params) const {
  const auto p = parse(params);
  // Lengths near the longest, few of them whole pages.
  std::vector<std::int32_t> kv_len;
  for (int b = 0; b < p.batch; ++b) kv_len.push_back(std::max(1, p.max_kv_len - b * 5 % 17));
  const std::int64_t width = static_cast<std::int64_t>(p.num_heads) * p.head_dim;
  const std::vector<std::int64_t> cache = {p.num_pages, p.num_kv_heads, p.page_size, p.head_dim};
  using Role = OperandSpec::Role;
  return {{"q", p.dtype, {p.batch, width}, Role::in, 1.0, {}},
          {"k_cache", p.dtype, cache, Role::in, 1.0, {}},
          {"v_cache", p.dtype, cache, Role::in, 1.0, {}},
          {"block_table",
           DType::i32,
           {p.batch, p.max_blocks},
           Role::in,
           1.0,
           scrambled_block_table(kv_len, p.max_blocks, p.num_pages, p.page_size)},
          {"kv_len", DType::i32, {p.batch}, Role::in, 1.0, kv_len},
          {"out", p.dtype, {p.batch, width}, Role::out, 1.0, {}}};
}

std::vector<std::byte> DecodeAttentionFamily::pack_args(const Params& params, const Params&,
                                                        std::span<const std::uint64_t> a,
                                                        std::uint64_t workspace) const {
  const auto p = parse(params);
  require_operands(name(), a, 6);
  return args_bytes(DecodeArgs{device_pointer<const void>(a[0]), device_pointer<const void>(a[1]),
                               device_pointer<const void>(a[2]), device_pointer<const int>(a[3]),
                               device_pointer<const int>(a[4]), device_pointer(a[5]),
                               device_pointer(workspace), p.max_blocks});
}

Cost DecodeAttentionFamily::cost(const Params& params) const {
  const auto p = parse(params);
  const double visible = p.window > 0 ? std::min(p.window, p.max_kv_len) : p.max_kv_len;
  const double cached = visible * p.num_kv_heads * p.head_dim * 2;
  const double ends = 2.0 * p.num_heads * p.head_dim;
  return {p.batch * (cached + ends) * 2, p.batch * visible * p.num_heads * p.head_dim * 4};
}

Tolerance DecodeAttentionFamily::tolerance(const Params& params, std::size_t) const {
  // Outputs average values of order 1 with weights rounded to the activations' type.
  return parse(params).dtype == DType::bf16 ? Tolerance{1e-2, 2e-2} : Tolerance{2e-3, 4e-3};
}

}  // namespace quern
