#include "templates/rope/rope_append.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/half.h"
#include "templates/attention/paged_cache.h"
#include "templates/common/roofline.h"
#include "templates/common/stub.h"
#include "templates/rope/rope_append_args.h"

namespace quern {
namespace {

constexpr int kThreads[] = {64, 128, 256, 512, 1024}, kVectors[] = {4, 8};
constexpr int kUnrolls[] = {1, 2, 4, 8};

std::optional<std::string> complaint(const RopeAppendProblem& p) {
  if (auto c = PagedHeads{p.num_heads, p.num_kv_heads, p.head_dim, p.page_size, p.num_pages,
                          p.max_blocks, p.batch, p.dtype}
                   .complaint())
    return c;
  if (p.qkv_dtype != p.dtype && p.qkv_dtype != DType::f32)
    return fmt::format("qkv is {} or f32, not {}", name(p.dtype), name(p.qkv_dtype));
  if (auto c = out_of_range("num_tokens", p.num_tokens, 1, 1 << 24)) return c;
  return out_of_range("max_positions", p.max_positions, 1, 1 << 30);
}

RopeAppendProblem parse(const Params& params) {
  const auto problem = from_params<RopeAppendProblem>(params);
  if (const auto reason = complaint(problem)) throw InputError(*reason);
  return problem;
}

std::optional<std::string> complaint(const RopeAppendProblem& p, const RopeAppendConfig& c,
                                     const Arch& arch) {
  if (c.threads < 32 || c.threads > 1024 || c.threads % 32 != 0)
    return fmt::format("{} threads are not 1 to 32 whole warps", c.threads);
  if (c.vector != 4 && c.vector != 8)
    return fmt::format("a vector of {} elements is not 8 or 16 bytes", c.vector);
  if (p.head_dim / 2 % c.vector != 0)
    return fmt::format("vectors of {} do not divide half of head_dim {}", c.vector, p.head_dim);
  if (auto out = out_of_range("unroll", c.unroll, 1, 8)) return out;
  if (c.pdl && !arch.has_pdl())
    return fmt::format("{} has no programmatic dependent launch", arch.name());
  return std::nullopt;
}

float element(const HostTensor& tensor, std::int64_t index) {
  const std::byte* data = tensor.data.data();
  if (tensor.spec.dtype == DType::f32) return reinterpret_cast<const float*>(data)[index];
  const std::uint16_t bits = reinterpret_cast<const std::uint16_t*>(data)[index];
  return tensor.spec.dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}
std::uint16_t from_float(DType dtype, float value) {
  return dtype == DType::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
}

/// The config, or InputError with the reason why it cannot run.
RopeAppendConfig legal(const RopeAppendProblem& problem, const Params& params, const Arch& arch) {
  const auto config = from_params<RopeAppendConfig>(params);
  if (const auto reason = complaint(problem, config, arch)) throw InputError(*reason);
  return config;
}

std::int64_t blocks_of(const RopeAppendProblem& p, const RopeAppendConfig& c) {
  const std::int64_t pieces = static_cast<std::int64_t>(p.num_tokens) *
                              (p.num_heads + 2 * p.num_kv_heads) * (p.head_dim / 2 / c.vector);
  const std::int64_t per_block = static_cast<std::int64_t>(c.threads) * c.unroll;
  return (pieces + per_block - 1) / per_block;
}

Cost cost_of(const RopeAppendProblem& p) {
  const double elements = double(p.num_tokens) * (p.num_heads + 2 * p.num_kv_heads) * p.head_dim;
  const double table = double(std::min(p.num_tokens, p.max_positions)) * p.head_dim * 4;
  return {elements * static_cast<double>(bytes_for(p.qkv_dtype, 1) + 2) + table +
              double(p.num_tokens) * 8,
          elements * 3};
}

/// Threads that stream (templates/common/roofline.h). The pieces of a thread are loaded one after
/// the other once its registers run short; each waits for its token's position first.
double predicted_us(const RopeAppendProblem& p, const RopeAppendConfig& c, const Arch& arch) {
  const double element_bytes = static_cast<double>(bytes_for(p.qkv_dtype, 1));
  StreamingKernel k;
  k.bytes = cost_of(p).bytes;
  k.blocks = static_cast<double>(blocks_of(p, c));
  k.threads = c.threads;
  k.registers = 24 + 4 * c.vector + 4 * c.unroll;
  k.loads_at_once = c.vector * (2 * element_bytes + 8) * std::min(2, c.unroll);
  k.steps = 2 + (c.unroll - 1) * 1.5 + (c.vector - 4) * 0.1;
  k.instructions = c.unroll * (50 + 14.0 * c.vector);
  k.pdl = c.pdl;
  return streaming_us(k, arch);
}

/// Small vectors shorten a thread's way, and two pieces of a thread save blocks where there are
/// many.
RopeAppendConfig usual_config(const RopeAppendProblem& p, const Arch& arch) {
  RopeAppendConfig config{256, 4, 1, arch.has_pdl()};
  if (blocks_of(p, config) > 4 * arch.num_sms) config.unroll = 2;
  return config;
}

}  // namespace

std::vector<std::string> RopeAppendFamily::dynamic_fields() const {
  return {"num_tokens", "batch", "max_blocks", "num_pages", "max_positions"};
}

std::vector<Tunable> RopeAppendFamily::space(const Params&) const {
  return {{"threads", values_of(kThreads)},
          {"vector", values_of(kVectors)},
          {"unroll", values_of(kUnrolls)},
          {"pdl", {true, false}}};
}

RankedSpace RopeAppendFamily::ranked_space(const Params& params, const Arch& arch) const {
  const auto problem = parse(params);
  std::vector<RopeAppendConfig> points;
  for (const int threads : kThreads)
    for (const int vector : kVectors)
      for (const int unroll : kUnrolls)
        for (const bool pdl : {true, false}) points.push_back({threads, vector, unroll, pdl});
  return rank_points(
      usual_config(problem, arch), points,
      [&](const RopeAppendConfig& config) { return complaint(problem, config, arch); },
      [&](const RopeAppendConfig& config) { return predicted_us(problem, config, arch); });
}

Params RopeAppendFamily::default_config(const Params& params, const Arch& arch) const {
  return to_params(usual_config(parse(params), arch));
}

double RopeAppendFamily::estimate_us(const Params& params, const Params& config,
                                     const Arch& arch) const {
  const auto problem = parse(params);
  return predicted_us(problem, legal(problem, config, arch), arch);
}

std::optional<std::string> RopeAppendFamily::unsupported(const Params& params, const Arch&) const {
  return complaint(from_params<RopeAppendProblem>(params));
}

std::optional<std::string> RopeAppendFamily::reject_reason(const Params& params,
                                                           const Params& config,
                                                           const Arch& arch) const {
  return complaint(parse(params), from_params<RopeAppendConfig>(config), arch);
}

KernelSource RopeAppendFamily::source(const Params& params, const Params& config_params,
                                      const Arch& arch) const {
  const auto problem = parse(params);
  const auto config = legal(problem, config_params, arch);
  const std::string entry = "quern_rope_append";
  return {fmt::format("#include \"rope/rope_append.cuh\"\n{}{}"
                      "extern \"C\" __global__ void __launch_bounds__({}) {}("
                      "const __grid_constant__ quern::RopeAppendArgs args) {{\n"
                      "  quern::rope_append<{}, {}, Problem, Config>(args);\n}}\n",
                      config_struct(without(params, dynamic_fields()), "Problem"),
                      config_struct(without(config_params, {"pdl"})), config.threads, entry,
                      device_type(problem.qkv_dtype), device_type(problem.dtype)),
          entry,
          {}};
}

LaunchPlan RopeAppendFamily::plan(const Params& params, const Params& config_params,
                                  const Arch& arch) const {
  const auto p = parse(params);
  const auto c = legal(p, config_params, arch);
  LaunchPlan plan;
  plan.grid[0] = static_cast<unsigned>(blocks_of(p, c));
  plan.block[0] = static_cast<unsigned>(c.threads);
  plan.pdl = c.pdl;
  return plan;
}

std::vector<OperandSpec> RopeAppendFamily::operands(const Params& params) const {
  const auto p = parse(params);
  // Tokens are dealt to the sequences in turn; each sequence's are consecutive and start at a
  // position of their own, as far as capacity allows.
  const int batch = std::min(p.batch, p.num_tokens);
  const std::int64_t room = std::min<std::int64_t>(
      {p.max_positions, static_cast<std::int64_t>(p.max_blocks) * p.page_size,
       static_cast<std::int64_t>(p.num_pages / batch) * p.page_size});
  std::vector<std::int32_t> positions, sequence, kv_len(static_cast<std::size_t>(p.batch), 0);
  for (int s = 0; s < batch; ++s) {
    const int count = p.num_tokens / batch + (s < p.num_tokens % batch ? 1 : 0);
    if (count > room)
      throw InputError(
          fmt::format("{} tokens of a sequence do not fit its share of {} positions", count, room));
    const auto start =
        static_cast<int>(std::min<std::int64_t>(room - count, p.page_size - 3 + 29 * s));
    for (int i = 0; i < count; ++i) {
      positions.push_back(start + i);
      sequence.push_back(s);
    }
    kv_len[static_cast<std::size_t>(s)] = start + count;
  }
  const std::int64_t q_width = static_cast<std::int64_t>(p.num_heads) * p.head_dim;
  const std::int64_t width =
      static_cast<std::int64_t>(p.num_heads + 2 * p.num_kv_heads) * p.head_dim;
  const std::vector<std::int64_t> cache = {p.num_pages, p.num_kv_heads, p.page_size, p.head_dim};
  using Role = OperandSpec::Role;
  std::vector<OperandSpec> operands = {
      {"qkv", p.qkv_dtype, {p.num_tokens, width}, Role::in, 1.0, {}},
      {"rope_table", DType::f32, {p.max_positions, p.head_dim / 2, 2}, Role::in, 1.0, {}},
      {"positions", DType::i32, {p.num_tokens}, Role::in, 1.0, positions},
      {"sequence", DType::i32, {p.num_tokens}, Role::in, 1.0, sequence},
      {"block_table",
       DType::i32,
       {p.batch, p.max_blocks},
       Role::in,
       1.0,
       scrambled_block_table(kv_len, p.max_blocks, p.num_pages, p.page_size)},
      {"k_cache", p.dtype, cache, Role::inout, 1.0, {}},
      {"v_cache", p.dtype, cache, Role::inout, 1.0, {}},
      {"q_out", p.dtype, {p.num_tokens, q_width}, Role::out, 1.0, {}},
  };
  if (p.bias) operands.push_back({"qkv_bias", p.dtype, {width}, Role::in, 1.0, {}});
  return operands;
}

std::vector<std::byte> RopeAppendFamily::pack_args(const Params& params, const Params&,
                                                   std::span<const std::uint64_t> a,
                                                   std::uint64_t) const {
  const auto p = parse(params);
  require_operands(name(), a, p.bias ? 9 : 8);
  return args_bytes(
      RopeAppendArgs{device_pointer<const void>(a[0]), device_pointer<const float>(a[1]),
                     device_pointer<const int>(a[2]), device_pointer<const int>(a[3]),
                     device_pointer<const int>(a[4]), device_pointer(a[5]), device_pointer(a[6]),
                     device_pointer(a[7]), device_pointer<const void>(p.bias ? a[8] : 0),
                     p.num_tokens, p.max_blocks});
}

void RopeAppendFamily::cpu_reference(const Params& params, std::span<HostTensor> operands) const {
  const auto p = parse(params);
  if (operands.size() != (p.bias ? 9u : 8u))
    throw InputError("rope_append takes 8 operands, and a bias where the problem has one");
  const auto* table = reinterpret_cast<const float*>(operands[1].data.data());
  const auto* positions = reinterpret_cast<const std::int32_t*>(operands[2].data.data());
  const auto* sequence = reinterpret_cast<const std::int32_t*>(operands[3].data.data());
  const auto* block_table = reinterpret_cast<const std::int32_t*>(operands[4].data.data());
  std::uint16_t* cache[] = {reinterpret_cast<std::uint16_t*>(operands[5].data.data()),
                            reinterpret_cast<std::uint16_t*>(operands[6].data.data())};
  auto* q_out = reinterpret_cast<std::uint16_t*>(operands[7].data.data());
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  const int half = p.head_dim / 2, all_heads = p.num_heads + 2 * p.num_kv_heads;
  for (std::int64_t token = 0; token < p.num_tokens; ++token) {
    if (sequence[token] < 0) continue;
    const std::int64_t position = positions[token];
    const std::int64_t page =
        block_table[at(std::int64_t{sequence[token]} * p.max_blocks + position / p.page_size)];
    for (int head = 0; head < all_heads; ++head) {
      const std::int64_t from = (token * all_heads + head) * p.head_dim;
      std::uint16_t* to = q_out + (token * p.num_heads + head) * p.head_dim;
      const bool is_value = head >= p.num_heads + p.num_kv_heads;
      if (head >= p.num_heads) {
        const std::int64_t kv_head = (head - p.num_heads) % p.num_kv_heads;
        const std::int64_t row =
            (page * p.num_kv_heads + kv_head) * p.page_size + position % p.page_size;
        to = cache[is_value ? 1 : 0] + row * p.head_dim;
      }
      for (int i = 0; i < half; ++i) {
        const auto value = [&](std::int64_t at_head) {
          const float raw = element(operands[0], from + at_head);
          return p.bias ? raw + element(operands[8], head * p.head_dim + at_head) : raw;
        };
        const float x = value(i), y = value(i + half);
        const float c = is_value ? 1.0f : table[(position * half + i) * 2];
        const float s = is_value ? 0.0f : table[(position * half + i) * 2 + 1];
        to[i] = from_float(p.dtype, x * c - y * s);
        to[i + half] = from_float(p.dtype, y * c + x * s);
      }
    }
  }
}

Cost RopeAppendFamily::cost(const Params& params) const { return cost_of(parse(params)); }

Tolerance RopeAppendFamily::tolerance(const Params& params, std::size_t) const {
  // Three roundings in fp32, where the two products may cancel, and one to 16 bits.
  return {1e-5, parse(params).dtype == DType::bf16 ? 8e-3 : 1e-3};
}

}  // namespace quern
