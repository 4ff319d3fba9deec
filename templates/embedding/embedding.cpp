#include "templates/embedding/embedding.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/half.h"
#include "templates/common/roofline.h"
#include "templates/common/stub.h"
#include "templates/embedding/embedding_args.h"

namespace quern {
namespace {

constexpr int kThreads[] = {32, 64, 128, 256, 512, 1024};
constexpr int kVectorBytes[] = {16, 8, 4, 2};
constexpr int kTokensPerBlock[] = {1, 2, 4, 8};
constexpr int kMaxTokens = 1 << 24, kMaxVocab = 1 << 24, kMaxHidden = 1 << 20;

using Reason = std::optional<std::string>;

bool is_float(DType dtype) {
  return dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f32;
}

Reason reason_against(const EmbeddingProblem& p) {
  const auto outside = [](const char* what, int value, int most) -> Reason {
    if (value >= 1 && value <= most) return std::nullopt;
    return fmt::format("{} = {} is not between 1 and {}", what, value, most);
  };
  if (auto why = outside("num_tokens", p.num_tokens, kMaxTokens)) return why;
  if (auto why = outside("vocab_size", p.vocab_size, kMaxVocab)) return why;
  if (auto why = outside("hidden_size", p.hidden_size, kMaxHidden)) return why;
  if (!is_float(p.dtype)) return fmt::format("a table is bf16, f16 or f32, not {}", name(p.dtype));
  if (p.out_dtype != p.dtype && p.out_dtype != DType::f32)
    return fmt::format("rows of a {} table come out as {} or f32, not {}", name(p.dtype),
                       name(p.dtype), name(p.out_dtype));
  return std::nullopt;
}

Reason reason_against(const EmbeddingProblem& p, const EmbeddingConfig& c) {
  if (auto why = reason_against(p)) return why;
  const auto has = [](const auto& values, int value) {
    return std::find(std::begin(values), std::end(values), value) != std::end(values);
  };
  if (!has(kThreads, c.threads))
    return fmt::format("threads = {} is not in the space of embedding", c.threads);
  if (!has(kVectorBytes, c.vector_bytes))
    return fmt::format("vector_bytes = {} is not in the space of embedding", c.vector_bytes);
  if (!has(kTokensPerBlock, c.tokens_per_block))
    return fmt::format("tokens_per_block = {} is not in the space of embedding",
                       c.tokens_per_block);
  const int element_bytes = static_cast<int>(bytes_for(p.dtype, 1));
  if (c.vector_bytes < element_bytes || p.hidden_size % (c.vector_bytes / element_bytes) != 0)
    return fmt::format("accesses of {} bytes do not divide a row of {} {} elements", c.vector_bytes,
                       p.hidden_size, name(p.dtype));
  return std::nullopt;
}

EmbeddingProblem problem_from(const Params& params) {
  const auto problem = from_params<EmbeddingProblem>(params);
  if (const auto why = reason_against(problem)) throw InputError(*why);
  return problem;
}

EmbeddingConfig config_from(const EmbeddingProblem& problem, const Params& params) {
  const auto config = from_params<EmbeddingConfig>(params);
  if (const auto why = reason_against(problem, config)) throw InputError(*why);
  return config;
}

Cost cost_of(const EmbeddingProblem& p) {
  const double elements = static_cast<double>(p.num_tokens) * p.hidden_size;
  return {elements * static_cast<double>(bytes_for(p.dtype, 1) + bytes_for(p.out_dtype, 1)) +
              4.0 * p.num_tokens,
          0};
}

int row_bytes(const EmbeddingProblem& p) {
  return static_cast<int>(bytes_for(p.dtype, 1)) * p.hidden_size;
}

/// Legal, but no use of what it asks for.
Reason wasteful(const EmbeddingProblem& p, const EmbeddingConfig& c) {
  const int accesses = row_bytes(p) / c.vector_bytes * c.tokens_per_block;
  if (c.threads > 32 && c.threads / 2 >= accesses)
    return fmt::format("half of {} threads find none of {} accesses", c.threads, accesses);
  if (c.tokens_per_block > p.num_tokens)
    return fmt::format("a block for {} tokens has only {}", c.tokens_per_block, p.num_tokens);
  return std::nullopt;
}

/// Threads that stream (templates/common/roofline.h): each step loads an id, then the row.
double predicted_us(const EmbeddingProblem& p, const EmbeddingConfig& c, const Arch& arch) {
  StreamingKernel k;
  k.bytes = cost_of(p).bytes;
  k.blocks = ceil_ratio(p.num_tokens, c.tokens_per_block);
  k.threads = c.threads;
  k.loads_at_once = c.vector_bytes;
  k.steps = 1 + ceil_ratio(double(row_bytes(p)) / c.vector_bytes * c.tokens_per_block, c.threads);
  k.step_us = 0.26;
  k.instructions = (k.steps - 1) * (25 + 4.0 * c.vector_bytes / 2);
  return streaming_us(k, arch);
}

/// The widest access that fits, and as many threads as cover a row: one trip is quickest.
EmbeddingConfig usual_config(const EmbeddingProblem& p) {
  EmbeddingConfig config;
  for (const int bytes : kVectorBytes) {
    config.vector_bytes = bytes;
    if (!reason_against(p, config)) break;
  }
  config.threads = 32;
  while (config.threads < 512 && config.threads * config.vector_bytes < row_bytes(p))
    config.threads *= 2;
  return config;
}

}  // namespace

std::vector<Tunable> EmbeddingFamily::space(const Params& problem) const {
  problem_from(problem);
  return {{"threads", values_of(kThreads)},
          {"vector_bytes", values_of(kVectorBytes)},
          {"tokens_per_block", values_of(kTokensPerBlock)}};
}

RankedSpace EmbeddingFamily::ranked_space(const Params& problem, const Arch& arch) const {
  const auto p = problem_from(problem);
  std::vector<EmbeddingConfig> points;
  for (const int threads : kThreads)
    for (const int vector_bytes : kVectorBytes)
      for (const int tokens : kTokensPerBlock) points.push_back({threads, vector_bytes, tokens});
  return rank_points(
      usual_config(p), points,
      [&](const EmbeddingConfig& c) -> Reason {
        if (auto why = reason_against(p, c)) return why;
        return wasteful(p, c);
      },
      [&](const EmbeddingConfig& c) { return predicted_us(p, c, arch); });
}

Params EmbeddingFamily::default_config(const Params& problem, const Arch&) const {
  return to_params(usual_config(problem_from(problem)));
}

double EmbeddingFamily::estimate_us(const Params& problem, const Params& config,
                                    const Arch& arch) const {
  const auto p = problem_from(problem);
  return predicted_us(p, config_from(p, config), arch);
}

std::optional<std::string> EmbeddingFamily::unsupported(const Params& problem, const Arch&) const {
  return reason_against(from_params<EmbeddingProblem>(problem));
}

std::optional<std::string> EmbeddingFamily::reject_reason(const Params& problem,
                                                          const Params& config, const Arch&) const {
  return reason_against(from_params<EmbeddingProblem>(problem),
                        from_params<EmbeddingConfig>(config));
}

Params EmbeddingFamily::reference_config(const Params&) const { return nullptr; }

void EmbeddingFamily::cpu_reference(const Params& problem, std::span<HostTensor> operands) const {
  const auto p = problem_from(problem);
  if (operands.size() != 3) throw InputError("embedding has the operands ids, table and y");
  const auto hidden = static_cast<std::size_t>(p.hidden_size);
  const std::size_t in_bytes = bytes_for(p.dtype, 1), out_bytes = bytes_for(p.out_dtype, 1);
  std::fill(operands[2].data.begin(), operands[2].data.end(), std::byte{0});
  for (std::size_t t = 0; t < static_cast<std::size_t>(p.num_tokens); ++t) {
    std::int32_t id = 0;
    std::memcpy(&id, operands[0].data.data() + t * sizeof id, sizeof id);
    if (id < 0 || id >= p.vocab_size) continue;
    const std::byte* row =
        operands[1].data.data() + static_cast<std::size_t>(id) * hidden * in_bytes;
    std::byte* y = operands[2].data.data() + t * hidden * out_bytes;
    if (p.dtype == p.out_dtype) {
      std::memcpy(y, row, hidden * in_bytes);
      continue;
    }
    for (std::size_t i = 0; i < hidden; ++i) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, row + i * 2, 2);
      const float value = p.dtype == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
      std::memcpy(y + i * 4, &value, 4);
    }
  }
}

KernelSource EmbeddingFamily::source(const Params& problem, const Params& config,
                                     const Arch&) const {
  const auto p = problem_from(problem);
  const auto c = config_from(p, config);
  return {fmt::format("#include \"embedding/embedding.cuh\"\n\n"
                      "struct Problem {{\n"
                      "  static constexpr int hidden_size = {};\n"
                      "  using Input = {};\n  using Output = {};\n}};\n{}\n"
                      "extern \"C\" __global__ void __launch_bounds__({})\n"
                      "embedding(const quern::EmbeddingArgs args) {{\n"
                      "  quern::gather_rows<Problem, Config>(args);\n}}\n",
                      p.hidden_size, device_type(p.dtype), device_type(p.out_dtype),
                      config_struct(config), c.threads),
          "embedding",
          {}};
}

LaunchPlan EmbeddingFamily::plan(const Params& problem, const Params& config,
                                 const Arch& arch) const {
  const auto p = problem_from(problem);
  const auto c = config_from(p, config);
  LaunchPlan plan;
  plan.grid[0] =
      static_cast<unsigned>((p.num_tokens + c.tokens_per_block - 1) / c.tokens_per_block);
  plan.block[0] = static_cast<unsigned>(c.threads);
  plan.pdl = arch.has_pdl();
  return plan;
}

std::vector<OperandSpec> EmbeddingFamily::operands(const Params& problem) const {
  const auto p = problem_from(problem);
  OperandSpec ids{"ids", DType::i32, {p.num_tokens}, OperandSpec::Role::in, 1.0, {}};
  // Rows far apart, the first and the last among them, and now and then none at all.
  for (std::int64_t t = 0; t < p.num_tokens; ++t) {
    std::int64_t id = (t * 7919 + 1) % p.vocab_size;
    if (t % 17 == 3) id = p.vocab_size - 1;
    if (t % 17 == 5) id = 0;
    if (t % 17 == 11) id = t % 2 == 0 ? -1 : p.vocab_size;
    ids.values.push_back(static_cast<std::int32_t>(id));
  }
  OperandSpec table{"table", p.dtype, {p.vocab_size, p.hidden_size}, OperandSpec::Role::in,
                    1.0,     {}};
  OperandSpec y{"y", p.out_dtype, {p.num_tokens, p.hidden_size}, OperandSpec::Role::out, 1.0, {}};
  return {ids, table, y};
}

std::vector<std::byte> EmbeddingFamily::pack_args(const Params& problem, const Params&,
                                                  std::span<const std::uint64_t> addresses,
                                                  std::uint64_t) const {
  const auto p = problem_from(problem);
  if (addresses.size() != 3) throw InputError("embedding has the operands ids, table and y");
  EmbeddingArgs args{};
  args.ids = reinterpret_cast<const int*>(addresses[0]);
  args.table = reinterpret_cast<const void*>(addresses[1]);
  args.y = reinterpret_cast<void*>(addresses[2]);
  args.num_tokens = p.num_tokens;
  args.vocab_size = p.vocab_size;
  return args_bytes(args);
}

Cost EmbeddingFamily::cost(const Params& problem) const { return cost_of(problem_from(problem)); }

Tolerance EmbeddingFamily::tolerance(const Params&, std::size_t) const { return {0, 0}; }

}  // namespace quern
