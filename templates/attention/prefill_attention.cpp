#include "templates/attention/prefill_attention.h"

#include <algorithm>

#include "templates/attention/attention_args.h"
#include "templates/attention/paged_cache.h"
#include "templates/common/roofline.h"
#include "templates/common/stub.h"

namespace quern {
namespace {

constexpr int kWarps[] = {1, 2, 4, 8}, kRowTiles[] = {1, 2}, kTileKv[] = {16, 32, 64, 128};
constexpr int kStages[] = {2, 3, 4}, kBlocksPerSm[] = {1, 2, 3, 4};

std::optional<std::string> complaint(const PrefillAttentionProblem& p) {
  if (auto c = PagedHeads{p.num_heads, p.num_kv_heads, p.head_dim, p.page_size, p.num_pages,
                          p.max_blocks, p.batch, p.dtype}
                   .complaint())
    return c;
  if (auto c = out_of_range("window", p.window, 0, 1 << 30)) return c;
  if (auto c = out_of_range("num_tokens", p.num_tokens, 1, 1 << 24)) return c;
  return out_of_range("max_query_len", p.max_query_len, 1,
                      std::min<std::int64_t>(1 << 20, std::int64_t{p.max_blocks} * p.page_size));
}

PrefillAttentionProblem parse(const Params& params) {
  const auto problem = from_params<PrefillAttentionProblem>(params);
  if (const auto reason = complaint(problem)) throw InputError(*reason);
  return problem;
}

int group_of(const PrefillAttentionProblem& p) { return p.num_heads / p.num_kv_heads; }

int rows_per_query(const PrefillAttentionProblem& p, const PrefillAttentionConfig& c) {
  return c.pack_group ? group_of(p) : 1;
}

unsigned query_tiles(const PrefillAttentionProblem& p, const PrefillAttentionConfig& c) {
  if (c.kernel == "reference") return static_cast<unsigned>(p.max_query_len);
  const int tile_q = c.warps * 16 * c.row_tiles;
  return static_cast<unsigned>((p.max_query_len * rows_per_query(p, c) + tile_q - 1) / tile_q);
}

/// Registers of a thread, from the fragments that live through the loop and a measured remainder.
int estimated_registers(const PrefillAttentionProblem& p, const PrefillAttentionConfig& c) {
  const int dim_tiles = (p.head_dim + 15) / 16;
  return 80 + c.row_tiles * (dim_tiles * 12 + c.tile_kv / 2);
}

std::optional<std::string> complaint(const PrefillAttentionProblem& p,
                                     const PrefillAttentionConfig& c, const Arch& arch) {
  if (c.kernel != "mma" && c.kernel != "reference")
    return "the kernel is neither 'mma' nor 'reference'";
  if (auto out = out_of_range("warps", c.warps, 1, 16)) return out;
  if (auto out = out_of_range("row_tiles", c.row_tiles, 1, 4)) return out;
  if (auto out = out_of_range("stages", c.stages, 2, 8)) return out;
  if (auto out = out_of_range("blocks_per_sm", c.blocks_per_sm, 1, 8)) return out;
  if (c.tile_kv != 16 && c.tile_kv != 32 && c.tile_kv != 64 && c.tile_kv != 128)
    return fmt::format("a tile of {} positions is not 16, 32, 64 or 128", c.tile_kv);
  if (query_tiles(p, c) > 65535)
    return fmt::format("{} query tiles exceed a grid's 65535", query_tiles(p, c));
  if (c.pdl && !arch.has_pdl())
    return fmt::format("{} has no programmatic dependent launch", arch.name());
  if (c.kernel == "reference") return std::nullopt;
  const int smem = prefill_smem_bytes(p.head_dim, c.tile_kv, c.stages) + 1024;  // the driver's
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

struct Lengths {
  std::vector<std::int32_t> query_start{0}, kv_len;
};

/// Trial lengths: tokens dealt evenly, and a short past for every second sequence where it fits.
Lengths lengths_of(const PrefillAttentionProblem& p) {
  Lengths lengths;
  int left = p.num_tokens;
  for (int s = 0; s < p.batch; ++s) {
    const int sequences = p.batch - s;
    const int count = std::min((left + sequences - 1) / sequences, p.max_query_len);
    left -= count;
    lengths.query_start.push_back(lengths.query_start.back() + count);
    lengths.kv_len.push_back(std::min(p.max_blocks * p.page_size, count + (s % 2 ? 37 : 0)));
  }
  return lengths;
}

/// The config, or InputError with the reason why it cannot run.
PrefillAttentionConfig legal(const PrefillAttentionProblem& problem, const Params& params,
                             const Arch& arch) {
  const auto config = from_params<PrefillAttentionConfig>(params);
  if (const auto reason = complaint(problem, config, arch)) throw InputError(*reason);
  return config;
}

/// Blocks go through their tiles of K and V, each as long as the slowest of the SM's tensor cores,
/// its lanes (softmax: exponentials, maxima, scaling), shared memory (K and V are read by every
/// warp), the way in from L2, and a warp's own chain. Half of the tiles are beyond the diagonal.
double predicted_us(const PrefillAttentionProblem& p, const PrefillAttentionConfig& c,
                    const Arch& arch) {
  const double clocks_per_us = arch.clock_ghz * 1e3;
  const double queries = std::min<double>(p.max_query_len, ceil_ratio(p.num_tokens, p.batch));
  double visible = queries / 2;  // on average over the rows of a sequence without a past
  if (p.window > 0) visible = std::min<double>(visible, p.window);
  if (c.kernel == "reference")
    return kLaunchUs +
           lanes_us(arch, p.num_tokens * visible * p.num_heads * p.head_dim * 8 / arch.num_sms);
  const int threads = c.warps * 32;
  const int registers = estimated_registers(p, c);
  const int most =
      std::max(1, resident_blocks(arch, threads, registers,
                                  prefill_smem_bytes(p.head_dim, c.tile_kv, c.stages)));
  const double tile_q = c.warps * 16.0 * c.row_tiles;
  const double heads = p.num_heads / rows_per_query(p, c);
  const double tiles_q = ceil_ratio(queries * rows_per_query(p, c), tile_q);
  const double blocks = heads * tiles_q * p.batch;
  const double on_sm = std::max(1.0, std::min<double>(most, ceil_ratio(blocks, arch.num_sms)));
  // A block sees whole tiles, up to that of its last row.
  const double tiles = (visible + tile_q / rows_per_query(p, c) / 2) / c.tile_kv + 0.5;

  const double pairs = tile_q * c.tile_kv;            // of row and position
  const double share = arch.cc() >= 90 ? 0.6 : 0.85;  // of the peak that mma.sync reaches
  const double tensor =
      on_sm * pairs * p.head_dim * 4 / (share * arch.tensor_tflops * 1e6 / arch.num_sms);
  const double softmax = lanes_us(arch, on_sm * (pairs * 9 + tile_q * p.head_dim * 1.2));
  const double tile_bytes = 4.0 * c.tile_kv * p.head_dim;
  const double smem = on_sm * tile_bytes * (c.warps + 1) / 128 / clocks_per_us;
  const double l2 = on_sm * tile_bytes / sm_rate(arch);
  // A warp by itself: both products, then the exponentials, and the barrier between tiles.
  const double fragments = c.row_tiles * (c.tile_kv / 8.0) * (p.head_dim / 16.0) * 2;
  const double alone =
      (fragments * 9 + c.row_tiles * c.tile_kv * 6.0 + 350 + 10.0 * c.warps) / clocks_per_us;
  const double latency = kDramLatencyUs / (c.stages - 1);
  const double step = overlapped({tensor, softmax, smem, l2, alone, latency});
  const double longest = tiles * 2;  // the last rows of a sequence see all of it
  const double rounds = std::max(blocks / (arch.num_sms * on_sm), 1.0);
  return kLaunchUs + (c.pdl ? 0 : kNoPdlUs) + 2 * kDramLatencyUs +
         std::max(rounds * tiles, longest) * step;
}

/// The first that fits, from what is good on most GPUs to the smallest ring there is.
PrefillAttentionConfig usual_config(const PrefillAttentionProblem& problem, const Arch& arch) {
  const bool pack = group_of(problem) > 1;
  struct Shape {
    int warps, row_tiles, tile_kv, stages, blocks_per_sm;
  };
  for (const Shape& s : {Shape{4, 1, 64, 2, 2}, Shape{8, 1, 64, 2, 1}, Shape{4, 1, 64, 2, 1},
                         Shape{4, 1, 32, 2, 1}, Shape{4, 1, 16, 2, 1}, Shape{1, 1, 16, 2, 1}}) {
    const PrefillAttentionConfig config{"mma",    s.warps, s.row_tiles,     s.tile_kv,
                                        s.stages, pack,    s.blocks_per_sm, arch.has_pdl()};
    if (!complaint(problem, config, arch)) return config;
  }
  PrefillAttentionConfig config;  // a huge head_dim with a small SM
  config.kernel = "reference";
  config.pdl = arch.has_pdl();
  return config;
}

}  // namespace

std::vector<std::string> PrefillAttentionFamily::dynamic_fields() const {
  return {"num_tokens", "batch", "max_query_len", "max_blocks", "num_pages"};
}

std::vector<Tunable> PrefillAttentionFamily::space(const Params&) const {
  return {{"kernel", {"mma", "reference"}},
          {"warps", values_of(kWarps)},
          {"row_tiles", values_of(kRowTiles)},
          {"tile_kv", values_of(kTileKv)},
          {"stages", values_of(kStages)},
          {"pack_group", {true, false}},
          {"blocks_per_sm", values_of(kBlocksPerSm)},
          {"pdl", {true, false}}};
}

RankedSpace PrefillAttentionFamily::ranked_space(const Params& params, const Arch& arch) const {
  const auto problem = parse(params);
  std::vector<PrefillAttentionConfig> points;
  PrefillAttentionConfig c;
  c.pdl = arch.has_pdl();  // always where there is such: a launch without it only begins later
  for (const bool pack : {true, false}) {
    if (pack && group_of(problem) == 1) continue;  // the same as unpacked
    for (const int warps : kWarps)
      for (const int row_tiles : kRowTiles)
        for (const int tile_kv : kTileKv)
          for (const int stages : kStages)
            for (const int blocks_per_sm : kBlocksPerSm) {
              c.warps = warps, c.row_tiles = row_tiles, c.tile_kv = tile_kv, c.stages = stages;
              c.pack_group = pack, c.blocks_per_sm = blocks_per_sm;
              points.push_back(c);
            }
  }
  return rank_points(
      usual_config(problem, arch), points,
      [&](const PrefillAttentionConfig& config) { return complaint(problem, config, arch); },
      [&](const PrefillAttentionConfig& config) { return predicted_us(problem, config, arch); });
}

Params PrefillAttentionFamily::default_config(const Params& params, const Arch& arch) const {
  return to_params(usual_config(parse(params), arch));
}

double PrefillAttentionFamily::estimate_us(const Params& params, const Params& config,
                                           const Arch& arch) const {
  const auto problem = parse(params);
  return predicted_us(problem, legal(problem, config, arch), arch);
}

std::optional<std::string> PrefillAttentionFamily::unsupported(const Params& params,
                                                               const Arch&) const {
  return complaint(from_params<PrefillAttentionProblem>(params));
}

std::optional<std::string> PrefillAttentionFamily::reject_reason(const Params& params,
                                                                 const Params& config,
                                                                 const Arch& arch) const {
  return complaint(parse(params), from_params<PrefillAttentionConfig>(config), arch);
}

Params PrefillAttentionFamily::reference_config(const Params&) const {
  PrefillAttentionConfig config;
  config.kernel = "reference";
  config.pdl = false;
  return to_params(config);
}

KernelSource PrefillAttentionFamily::source(const Params& params, const Params& config_params,
                                            const Arch& arch) const {
  const auto problem = parse(params);
  const auto config = legal(problem, config_params, arch);
  const bool naive = config.kernel == "reference";
  const std::string entry = "quern_prefill_attention";
  return {
      fmt::format("#include \"attention/{}.cuh\"\n{}{}"
                  "extern \"C\" __global__ void __launch_bounds__({}, {}) {}("
                  "const __grid_constant__ quern::PrefillArgs args) {{\n"
                  "  quern::{}<{}, Problem, Config>(args);\n}}\n",
                  naive ? "reference_attention" : "prefill_attention",
                  config_struct(without(params, dynamic_fields()), "Problem"),
                  config_struct(without(config_params, {"pdl"})), config.warps * 32,
                  config.blocks_per_sm, entry, naive ? "prefill_reference" : "prefill_attention",
                  device_type(problem.dtype)),
      entry,
      {}};
}

LaunchPlan PrefillAttentionFamily::plan(const Params& params, const Params& config_params,
                                        const Arch& arch) const {
  const auto p = parse(params);
  const auto c = legal(p, config_params, arch);
  const bool naive = c.kernel == "reference";
  LaunchPlan plan;
  plan.block[0] = static_cast<unsigned>(c.warps * 32);
  plan.pdl = c.pdl;
  plan.grid = {static_cast<unsigned>(naive ? (p.num_heads + c.warps - 1) / c.warps
                                           : p.num_heads / rows_per_query(p, c)),
               query_tiles(p, c), static_cast<unsigned>(p.batch)};
  if (!naive)
    plan.smem_bytes = static_cast<unsigned>(prefill_smem_bytes(p.head_dim, c.tile_kv, c.stages));
  return plan;
}

std::vector<OperandSpec> PrefillAttentionFamily::operands(const Params& params) const {
  const auto p = parse(params);
  const Lengths lengths = lengths_of(p);
  const std::int64_t width = static_cast<std::int64_t>(p.num_heads) * p.head_dim;
  const std::vector<std::int64_t> cache = {p.num_pages, p.num_kv_heads, p.page_size, p.head_dim};
  using Role = OperandSpec::Role;
  return {{"q", p.dtype, {p.num_tokens, width}, Role::in, 1.0, {}},
          {"k_cache", p.dtype, cache, Role::in, 1.0, {}},
          {"v_cache", p.dtype, cache, Role::in, 1.0, {}},
          {"block_table",
           DType::i32,
           {p.batch, p.max_blocks},
           Role::in,
           1.0,
           scrambled_block_table(lengths.kv_len, p.max_blocks, p.num_pages, p.page_size)},
          {"query_start", DType::i32, {p.batch + 1}, Role::in, 1.0, lengths.query_start},
          {"kv_len", DType::i32, {p.batch}, Role::in, 1.0, lengths.kv_len},
          {"out", p.dtype, {p.num_tokens, width}, Role::out, 1.0, {}}};
}

std::vector<std::byte> PrefillAttentionFamily::pack_args(const Params& params, const Params&,
                                                         std::span<const std::uint64_t> a,
                                                         std::uint64_t) const {
  const auto p = parse(params);
  require_operands(name(), a, 7);
  return args_bytes(PrefillArgs{device_pointer<const void>(a[0]), device_pointer<const void>(a[1]),
                                device_pointer<const void>(a[2]), device_pointer<const int>(a[3]),
                                device_pointer<const int>(a[4]), device_pointer<const int>(a[5]),
                                device_pointer(a[6]), p.max_blocks});
}

Cost PrefillAttentionFamily::cost(const Params& params) const {
  const auto p = parse(params);
  const Lengths lengths = lengths_of(p);
  double pairs = 0, cached = 0;
  for (std::size_t s = 0; s < lengths.kv_len.size(); ++s) {
    const int count = lengths.query_start[s + 1] - lengths.query_start[s];
    const int past = lengths.kv_len[s] - count;
    for (int i = 0; i < count; ++i)
      pairs += p.window > 0 ? std::min(p.window, past + i + 1) : past + i + 1;
    cached += lengths.kv_len[s];
  }
  const double ends = 2.0 * p.num_tokens * p.num_heads * p.head_dim;
  return {(ends + cached * p.num_kv_heads * p.head_dim * 2) * 2,
          pairs * p.num_heads * p.head_dim * 4};
}

Tolerance PrefillAttentionFamily::tolerance(const Params& params, std::size_t) const {
  // Outputs average values of order 1 with weights rounded to the activations' type.
  return parse(params).dtype == DType::bf16 ? Tolerance{1e-2, 2e-2} : Tolerance{2e-3, 4e-3};
}

}  // namespace quern
