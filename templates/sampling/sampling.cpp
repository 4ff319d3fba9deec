#include "templates/sampling/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "templates/attention/paged_cache.h"
#include "templates/common/roofline.h"
#include "templates/common/stub.h"
#include "templates/common/workspace_args.h"
#include "templates/sampling/sampling_args.h"

namespace quern {
namespace {

constexpr int kThreads[] = {128, 256, 512, 1024};
constexpr int kBlocks[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256};

std::optional<std::string> complaint(const SamplingProblem& p) {
  if (auto c = out_of_range("batch", p.batch, 1, kMaxCounters)) return c;
  if (auto c = out_of_range("vocab_size", p.vocab_size, 1, 1 << 22)) return c;
  return out_of_range("log_capacity", p.log_capacity, 0, 1 << 30);
}

SamplingProblem parse(const Params& params) {
  const auto problem = from_params<SamplingProblem>(params);
  if (const auto reason = complaint(problem)) throw InputError(*reason);
  return problem;
}

std::optional<std::string> complaint(const SamplingConfig& c, const Arch& arch) {
  if (c.threads < 32 || c.threads > 1024 || c.threads % 32 != 0)
    return fmt::format("{} threads are not 1 to 32 whole warps", c.threads);
  if (auto out = out_of_range("blocks", c.blocks, 1, 1024)) return out;
  if (c.pdl && !arch.has_pdl())
    return fmt::format("{} has no programmatic dependent launch", arch.name());
  return std::nullopt;
}

/// First word of Philox4x32-10 (Salmon et al., 2011).
std::uint32_t philox(std::uint32_t k0, std::uint32_t k1, std::uint32_t c0, std::uint32_t c1) {
  std::uint32_t c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * c0, b = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(b);
    c2 = static_cast<std::uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

int argmax(std::span<const float> logits) {
  int best = -1;
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (!std::isnan(logits[i]) && (best < 0 || logits[i] > logits[static_cast<std::size_t>(best)]))
      best = static_cast<int>(i);
  return std::max(best, 0);
}

int choose(std::span<const float> logits, const SamplingRequest& params, int position) {
  const int first = argmax(logits);
  if (!(params.temperature > 0)) return first;
  const float top = logits[static_cast<std::size_t>(first)] / params.temperature;
  if (!std::isfinite(top)) return first;

  std::vector<float> order;
  for (const float x : logits)
    if (!std::isnan(x)) order.push_back(x);
  std::sort(order.begin(), order.end(), std::greater<>());
  const auto weight = [&](float x) {
    return std::exp(double{x / params.temperature} - double{top});
  };
  float least = -std::numeric_limits<float>::infinity();
  if (params.top_k > 0 && static_cast<std::size_t>(params.top_k) < order.size())
    least = order[static_cast<std::size_t>(params.top_k) - 1];
  if (params.top_p < 1) {
    double total = 0, mass = 0;
    for (const float x : order) total += x >= least ? weight(x) : 0;
    for (const float x : order) {
      mass += weight(x);
      if (mass >= double{params.top_p} * total) {
        least = std::max(least, x);
        break;
      }
    }
  }
  int best = first;
  double best_value = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float x = logits[i];
    if (!(x >= least)) continue;
    if (params.min_p > 0 && weight(x) < double{params.min_p} &&
        x != logits[static_cast<std::size_t>(first)])
      continue;
    const std::uint32_t bits =
        philox(params.seed_low, params.seed_high, static_cast<std::uint32_t>(i),
               static_cast<std::uint32_t>(position) + 1);
    const double u = (static_cast<double>(bits >> 8) + 0.5) / 16777216.0;
    const double value = double{x / params.temperature} - std::log(-std::log(u));
    if (value > best_value) {
      best_value = value;
      best = static_cast<int>(i);
    }
  }
  return best;
}

/// The config, or InputError with the reason why it cannot run.
SamplingConfig legal(const Params& params, const Arch& arch) {
  const auto config = from_params<SamplingConfig>(params);
  if (const auto reason = complaint(config, arch)) throw InputError(*reason);
  return config;
}

/// Legal, but with blocks that find nothing to do.
std::optional<std::string> wasteful(const SamplingProblem& p, const SamplingConfig& c) {
  if (c.blocks > 1 && std::int64_t{c.blocks - 1} * c.threads * 4 >= p.vocab_size)
    return fmt::format("the last of {} blocks finds none of {} logits", c.blocks, p.vocab_size);
  return std::nullopt;
}

/// Logits stream through all blocks of a sequence, whose last one merges. Filters then make one
/// block walk over all logits again; a trial has them in more than half of its sequences beyond the
/// first (operands()).
double predicted_us(const SamplingProblem& p, const SamplingConfig& c, const Arch& arch) {
  constexpr int kSmemBytes = 34 << 10;  // the list of the filters
  constexpr double kStepUs = 0.48, kMergeUs = 1.6;
  StreamingKernel k;
  k.bytes = double(p.batch) * p.vocab_size * 4;
  k.blocks = double(p.batch) * c.blocks;
  k.threads = c.threads;
  k.registers = 40;
  k.smem_bytes = kSmemBytes;
  k.steps = 1 + ceil_ratio(p.vocab_size, 4.0 * c.threads * c.blocks);
  k.step_us = kStepUs;
  k.instructions = (k.steps - 1) * (p.batch > 1 ? 120 : 40) + 100;
  k.pdl = c.pdl;
  const double filters =
      p.batch > 1 ? 55 + 2 * kStepUs * ceil_ratio(p.vocab_size, 4.0 * c.threads) : 0;
  return streaming_us(k, arch) + kMergeUs + kBarrierUs * (c.threads / 32) + filters;
}

/// One trip of every thread for one sequence; the more sequences there are, the fewer blocks each
/// needs to fill the GPU, and the more the widest block helps those with filters.
SamplingConfig usual_config(const SamplingProblem& p, const Arch& arch) {
  const bool small = p.vocab_size < (1 << 14);
  SamplingConfig config{small ? 256 : p.batch > 1 ? 1024 : 512, 1, arch.has_pdl()};
  for (const int blocks : kBlocks) {
    const SamplingConfig wider{config.threads, blocks, config.pdl};
    if (!wasteful(p, wider) && blocks * p.batch <= std::max(arch.num_sms, 4 * p.batch))
      config = wider;
  }
  return config;
}

}  // namespace

std::vector<std::string> SamplingFamily::dynamic_fields() const {
  return {"batch", "log_capacity"};
}

std::vector<Tunable> SamplingFamily::space(const Params&) const {
  return {{"threads", values_of(kThreads)}, {"blocks", values_of(kBlocks)}, {"pdl", {true, false}}};
}

RankedSpace SamplingFamily::ranked_space(const Params& params, const Arch& arch) const {
  const auto problem = parse(params);
  std::vector<SamplingConfig> points;
  for (const int threads : kThreads)
    for (const int blocks : kBlocks)
      for (const bool pdl : {true, false}) points.push_back({threads, blocks, pdl});
  return rank_points(
      usual_config(problem, arch), points,
      [&](const SamplingConfig& config) -> std::optional<std::string> {
        if (auto why = complaint(config, arch)) return why;
        return wasteful(problem, config);
      },
      [&](const SamplingConfig& config) { return predicted_us(problem, config, arch); });
}

Params SamplingFamily::default_config(const Params& params, const Arch& arch) const {
  return to_params(usual_config(parse(params), arch));
}

double SamplingFamily::estimate_us(const Params& params, const Params& config,
                                   const Arch& arch) const {
  return predicted_us(parse(params), legal(config, arch), arch);
}

std::optional<std::string> SamplingFamily::unsupported(const Params& params, const Arch&) const {
  return complaint(from_params<SamplingProblem>(params));
}

std::optional<std::string> SamplingFamily::reject_reason(const Params& params, const Params& config,
                                                         const Arch& arch) const {
  parse(params);
  return complaint(from_params<SamplingConfig>(config), arch);
}

Params SamplingFamily::reference_config(const Params&) const { return nullptr; }

KernelSource SamplingFamily::source(const Params& params, const Params& config_params,
                                    const Arch& arch) const {
  parse(params);
  const auto config = legal(config_params, arch);
  const std::string entry = "quern_sampling";
  return {
      fmt::format("#include \"sampling/sampling.cuh\"\n{}{}"
                  "extern \"C\" __global__ void __launch_bounds__({}) {}("
                  "const __grid_constant__ quern::SamplingArgs args) {{\n"
                  "  quern::sample<Problem, Config>(args);\n}}\n",
                  config_struct(without(params, dynamic_fields()), "Problem"),
                  config_struct(without(config_params, {"blocks", "pdl"})), config.threads, entry),
      entry,
      {}};
}

LaunchPlan SamplingFamily::plan(const Params& params, const Params& config_params,
                                const Arch& arch) const {
  const auto p = parse(params);
  const auto c = legal(config_params, arch);
  LaunchPlan plan;
  plan.grid = {static_cast<unsigned>(c.blocks), static_cast<unsigned>(p.batch), 1};
  plan.block[0] = static_cast<unsigned>(c.threads);
  plan.pdl = c.pdl;
  plan.workspace_bytes = kCounterBytes + std::size_t{8} * static_cast<std::size_t>(p.batch) *
                                             static_cast<std::size_t>(c.blocks);
  return plan;
}

std::vector<OperandSpec> SamplingFamily::operands(const Params& params) const {
  const auto p = parse(params);
  // Greedy, plain, and every filter, in turn; the first sequence is greedy, as most requests are.
  const SamplingRequest kinds[] = {
      {0.0f, 0, 1.0f, 0.0f, 1, 2, {}},   {0.8f, 40, 0.95f, 0.0f, 3, 4, {}},
      {1.0f, 0, 1.0f, 0.0f, 5, 6, {}},   {0.7f, 0, 0.9f, 0.0f, 7, 8, {}},
      {1.2f, 0, 1.0f, 0.05f, 9, 10, {}}, {0.9f, 20, 1.0f, 0.02f, 11, 12, {}}};
  std::vector<std::int32_t> words, position, kv_len;
  for (int b = 0; b < p.batch; ++b) {
    SamplingRequest row = kinds[b % 6];
    row.seed_high += static_cast<unsigned>(b);
    const auto bits = std::bit_cast<std::array<std::int32_t, 8>>(row);
    words.insert(words.end(), bits.begin(), bits.end());
    position.push_back(10 + b);
    kv_len.push_back(11 + b);
  }
  using Role = OperandSpec::Role;
  const std::int64_t batch = p.batch;
  return {{"logits", DType::f32, {batch, p.vocab_size}, Role::in, 4.0, {}},
          {"params", DType::i32, {batch, 8}, Role::in, 1.0, words},
          {"token", DType::i32, {batch}, Role::out, 1.0, {}},
          {"position", DType::i32, {batch}, Role::inout, 1.0, position},
          {"kv_len", DType::i32, {batch}, Role::inout, 1.0, kv_len},
          {"log",
           DType::i32,
           {batch, p.log_capacity},
           Role::inout,
           1.0,
           std::vector<std::int32_t>(static_cast<std::size_t>(batch * p.log_capacity), -1)}};
}

std::vector<std::byte> SamplingFamily::pack_args(const Params& params, const Params&,
                                                 std::span<const std::uint64_t> a,
                                                 std::uint64_t workspace) const {
  const auto p = parse(params);
  require_operands(name(), a, 6);
  return args_bytes(
      SamplingArgs{device_pointer<const float>(a[0]), device_pointer<const SamplingRequest>(a[1]),
                   device_pointer<int>(a[2]), device_pointer<int>(a[3]), device_pointer<int>(a[4]),
                   device_pointer<int>(a[5]), device_pointer(workspace), p.log_capacity});
}

void SamplingFamily::cpu_reference(const Params& params, std::span<HostTensor> operands) const {
  const auto p = parse(params);
  if (operands.size() != 6) throw InputError("sampling takes 6 operands");
  const auto* logits = reinterpret_cast<const float*>(operands[0].data.data());
  const auto* rows = reinterpret_cast<const SamplingRequest*>(operands[1].data.data());
  const auto ints = [&](std::size_t i) {
    return reinterpret_cast<std::int32_t*>(operands[i].data.data());
  };
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const std::span<const float> row(logits + b * p.vocab_size,
                                     static_cast<std::size_t>(p.vocab_size));
    const int token = choose(row, rows[b], ints(3)[b]);
    ints(2)[b] = token;
    const int position = ++ints(3)[b];
    ++ints(4)[b];
    if (position >= 0 && position < p.log_capacity) ints(5)[b * p.log_capacity + position] = token;
  }
}

Cost SamplingFamily::cost(const Params& params) const {
  const auto p = parse(params);
  return {double(p.batch) * (double(p.vocab_size) * 4 + 48), double(p.batch) * p.vocab_size};
}

Tolerance SamplingFamily::tolerance(const Params&, std::size_t) const { return {0, 0}; }

}  // namespace quern
