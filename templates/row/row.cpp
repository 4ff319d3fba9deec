#include "templates/row/row.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "templates/common/roofline.h"

namespace quern {
namespace {

constexpr int kMaxThreads = 1024;              // of a block
constexpr int kMaxTurns = 64;                  // rows that the same threads take
constexpr std::int64_t kMaxRegisters = 255;    // of a thread
constexpr std::int64_t kRegistersEach = 4;     // per element of a row that a thread keeps
constexpr std::int64_t kWarpRow = 1024;        // elements up to which a warp does for a row
constexpr std::int64_t kClusterRow = 32768;    // elements from which one SM is too little for a row
constexpr std::int64_t kMinClusterPart = 512;  // elements that are worth a block of a cluster

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// The widest access up to `elements` that divides the innermost axis.
int fitting_vector(const RowProblem& problem, int elements) {
  int vector = std::max(1, elements);
  while (problem.inner % vector != 0) vector /= 2;
  return vector;
}

/// A power of two of threads that leaves each about `elements` of `row`, but no thread without any.
int threads_for(std::int64_t row, std::int64_t elements, int vector) {
  const std::int64_t wanted = divide_up(row, std::max<std::int64_t>(elements, vector));
  const auto threads = std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(wanted, 1)));
  return static_cast<int>(std::min<std::uint64_t>(threads, kMaxThreads));
}

/// Elements of a row that each thread has.
std::int64_t share_of(const RowProblem& problem, int threads_per_row, int cluster, int vector) {
  const std::int64_t step = std::int64_t{threads_per_row} * cluster * vector;
  return divide_up(problem.row, step) * vector;
}

bool fits_registers(const RowProblem& problem, std::int64_t elements, int threads,
                    const Arch& arch) {
  // Up to three registers are kept for each element of the shipped kernels (four where operands are
  // as wide as registers), and the first few elements have those beside them that addresses and
  // reductions take.
  const std::int64_t registers =
      std::min<std::int64_t>(kMaxRegisters + 1, arch.registers_per_sm / threads);
  return elements * (problem.wide_bits >= 32 ? kRegistersEach + 1 : kRegistersEach) <= registers;
}

/// Widths of an access, in elements: from `least` up to 64 bytes of the widest operand.
std::vector<int> vectors_of(const RowProblem& problem, int least) {
  std::vector<int> out;
  for (int vector = 32; vector >= 1; vector /= 2)
    if (problem.inner % vector == 0 && vector * problem.wide_bits <= 512 &&
        (vector >= least || out.empty()))
      out.push_back(vector);
  return out;
}

/// Powers of two of `rows` that blocks which fill the GPU some times over have to go through.
std::vector<int> turns_of(const RowProblem& problem, int threads, int threads_per_row,
                          const Arch& arch) {
  std::vector<int> out{1};
  const std::int64_t at_once = std::int64_t{arch.num_sms} * (arch.max_threads_per_sm / threads) *
                               (threads / threads_per_row);
  for (int turns = 2; turns <= kMaxTurns && turns * at_once < 2 * problem.rows; turns *= 2)
    out.push_back(turns);
  return out;
}

void add_elementwise(const RowProblem& problem, const Arch& arch, std::vector<RowConfig>& out) {
  for (const int threads : {32, 64, 96, 128, 192, 256, 384, 512, 768, 1024})
    for (const int vector : vectors_of(problem, 2))
      out.push_back({threads, threads, vector, "none", 1, arch.has_pdl(), 1, 0});
}

/// Neighbouring threads read neighbouring columns; the others of a block share those columns' rows.
void add_columns(const RowProblem& problem, const Arch& arch, std::vector<RowConfig>& out) {
  for (const int threads : {64, 128, 256, 512, 1024})
    for (const int per_row : {1, 2, 4, 8, 16, 32, 64, 128})
      for (const int vector : vectors_of(problem, 1))
        if (per_row <= threads)
          out.push_back({threads, per_row, vector, "none", 1, arch.has_pdl(), 1, 0});
}

void add_rows(const RowProblem& problem, const Arch& arch, std::vector<RowConfig>& out) {
  const auto add = [&](int threads, int per_row, int vector, int cluster) {
    RowConfig c{threads, per_row, vector, "none", cluster, arch.has_pdl(), 1, 0};
    for (const char* keep : {"none", "shared", "packed", "registers"}) {
      c.keep = keep;
      const bool in_registers = c.keep == "packed" || c.keep == "registers";
      std::vector<int> bounds{0};
      if (in_registers && threads >= 128 && cluster == 1)
        for (const int share : {4, 3}) {  // quarters of what an SM holds
          const int blocks = arch.max_threads_per_sm * share / 4 / threads;
          if (blocks > 1 && blocks <= 32 && blocks != bounds.back()) bounds.push_back(blocks);
        }
      for (const int blocks_per_sm : bounds) {
        c.blocks_per_sm = blocks_per_sm;
        c.turns = 1;
        out.push_back(c);
        // Rows in turn are loaded ahead of the one at hand, which bounds on registers defeat.
        if (c.keep != "registers" || cluster > 1 || blocks_per_sm != 0) continue;
        for (const int turns : turns_of(problem, threads, per_row, arch)) {
          c.turns = turns;
          if (turns > 1) out.push_back(c);
        }
      }
    }
  };
  for (const int vector : vectors_of(problem, 2)) {
    std::vector<int> per_rows;
    for (int threads = 8; threads <= kMaxThreads; threads *= 2) per_rows.push_back(threads);
    // As many threads as find work in every step, where powers of two leave some of them idle.
    const std::int64_t accesses = divide_up(problem.row, vector);
    for (const std::int64_t steps : {1, 2, 3, 4}) {
      const std::int64_t threads = divide_up(divide_up(accesses, steps), 32) * 32;
      if (threads <= kMaxThreads &&
          std::find(per_rows.begin(), per_rows.end(), threads) == per_rows.end())
        per_rows.push_back(static_cast<int>(threads));
    }
    for (const int per_row : per_rows) {
      const bool power = std::has_single_bit(static_cast<unsigned>(per_row));
      for (int rows = 1; rows == 1 || (power && rows <= 32 && rows <= problem.rows); rows *= 2)
        if (const int threads = per_row * rows;
            threads >= 32 && threads <= (rows == 1 ? kMaxThreads : 512))
          add(threads, per_row, vector, 1);
      // Blocks of a cluster are for rows that leave SMs without work, or that one SM cannot hold.
      if (power && per_row >= 64 && (2 * problem.rows <= arch.num_sms || problem.row > kClusterRow))
        for (const int cluster : {2, 4, 8})
          if (divide_up(problem.row, cluster) >= kMinClusterPart)
            add(per_row, per_row, vector, cluster);
    }
  }
}

}  // namespace

std::vector<Tunable> row_space() {
  std::vector<Params> threads, threads_per_row{1, 2, 4, 8, 16}, blocks;
  for (int count = 0; count <= 32; ++count) blocks.push_back(count);
  for (int count = 32; count <= kMaxThreads; count += 32) {
    threads.push_back(count);
    threads_per_row.push_back(count);
  }
  return {{"threads", threads},
          {"threads_per_row", threads_per_row},
          {"vector", {1, 2, 4, 8, 16, 32}},
          {"keep", {"none", "registers", "packed", "shared"}},
          {"cluster", {1, 2, 4, 8}},
          {"pdl", {true, false}},
          {"turns", {1, 2, 4, 8, 16, 32, 64}},
          {"blocks_per_sm", blocks}};
}

std::optional<std::string> row_reject_reason(const RowProblem& problem, const RowConfig& config,
                                             const Arch& arch) {
  if (config.threads > arch.max_threads_per_sm)
    return fmt::format("an SM of {} holds {} threads", arch.name(), arch.max_threads_per_sm);
  if (config.vector > 1 && problem.inner % config.vector != 0)
    return fmt::format("rows of {} elements are no multiple of {} elements", problem.inner,
                       config.vector);
  const std::int64_t registers = std::min<std::int64_t>(
      kMaxRegisters + 1, arch.registers_per_sm / std::max(1, config.threads));
  if (config.vector > 1 && config.vector * kRegistersEach >= registers)
    return fmt::format("{} threads have too few registers for {} elements at once", config.threads,
                       config.vector);
  if (!problem.reduces || problem.column) return std::nullopt;
  const std::int64_t share = share_of(problem, std::max(1, config.threads_per_row),
                                      std::max(1, config.cluster), std::max(1, config.vector));
  const int threads_on_sm = std::max(1, config.threads) * std::max(1, config.blocks_per_sm);
  // A bound leaves nothing beyond itself for addresses and reductions, and rows in turn are loaded
  // ahead of the one at hand.
  const std::int64_t more = (config.blocks_per_sm > 0 ? 6 : 0) + (config.turns > 1 ? share / 4 : 0);
  // Before sm_90 ptxas stops at 128 registers for rows in turn of its own accord (softmax_masked of
  // 4096 elements by 128 threads on sm_80); as if an SM had to hold 640 threads, so that some 100
  // are left for elements.
  const int at_least = config.turns > 1 && arch.cc() < 90 ? 640 : 0;
  if (config.keep == "registers" &&
      !fits_registers(problem, share + more, std::max(threads_on_sm, at_least), arch))
    return fmt::format("{} threads have too few registers to keep {} elements of a row each",
                       threads_on_sm, share);
  if (config.keep == "packed") {
    // What was loaded, the elements at hand in f32 and as they are stored, and the rest.
    constexpr double rest = 24;
    const double wanted =
        static_cast<double>(share) * problem.loaded_bytes / 4 + 2.0 * config.vector + rest;
    if (wanted > std::min<double>(kMaxRegisters, arch.registers_per_sm / threads_on_sm))
      return fmt::format(
          "{} threads on an SM have too few registers to hold {} elements of a row "
          "each",
          threads_on_sm, share);
  }
  const std::int64_t accesses = divide_up(problem.row, std::max(1, config.vector));
  const std::int64_t sharing = std::int64_t{config.threads_per_row} * config.cluster;
  if (sharing > 32 && sharing >= 2 * accesses)
    return fmt::format("a row is {} accesses: half of {} threads would find none", accesses,
                       sharing);
  return std::nullopt;
}

std::vector<RowConfig> row_points(const RowProblem& problem, const Arch& arch) {
  std::vector<RowConfig> out;
  if (!problem.reduces)
    add_elementwise(problem, arch, out);
  else if (problem.column)
    add_columns(problem, arch, out);
  else
    add_rows(problem, arch, out);
  return out;
}

std::vector<RowConfig> row_defaults(const RowProblem& problem, const Arch& arch) {
  const bool few = problem.rows < arch.num_sms;
  const int narrow = fitting_vector(problem, std::min(128 / problem.narrow_bits, 32));
  const int wide = fitting_vector(problem, std::min(128 / problem.wide_bits, 32));
  std::vector<RowConfig> out;
  const auto add = [&](int threads, int per_row, int vector, const char* keep, int cluster = 1) {
    const RowConfig config{threads, per_row, vector, keep, cluster, arch.has_pdl(), 1, 0};
    if (threads <= kMaxThreads && !row_reject_reason(problem, config, arch)) out.push_back(config);
  };
  if (!problem.reduces) {
    // With few elements, more and shorter threads; half the access width where one is wider.
    const double elements = static_cast<double>(problem.rows) * static_cast<double>(problem.row);
    const bool short_of_work = elements / narrow < 8.0 * arch.num_sms * 256;
    for (const int vector : {short_of_work ? std::max(wide, narrow / 2) : narrow, narrow, wide, 1})
      add(256, 256, vector, "none");
    return out;
  }
  if (problem.column) {
    for (const int vector : {narrow, wide, 1})
      for (const int per_row : {8, 1}) add(per_row == 1 ? 128 : 256, per_row, vector, "none");
    return out;
  }
  // Accesses of 16 bytes of the widest operand, and enough threads for each to have a few.
  for (const int vector : {wide, narrow, 1}) {
    int per_row = threads_for(problem.row, few ? 8 : 16, vector);
    if (problem.row <= kWarpRow && !(few && problem.row > 256)) per_row = std::min(per_row, 32);
    if (arch.cc() >= 90 && problem.row > kClusterRow)
      for (const int cluster : {problem.row > 2 * kClusterRow ? 8 : 4, 8}) {
        const int part = std::max(64, threads_for(divide_up(problem.row, cluster), 16, vector));
        for (const char* keep : {"registers", "shared"}) add(part, part, vector, keep, cluster);
      }
    for (const char* keep : {"registers", "shared", "none"})
      add(std::max(128, per_row), per_row, vector, keep);
  }
  for (const int per_row : {128, 256, 32, 1024})
    for (const char* keep : {"none", "shared"}) add(std::max(per_row, 128), per_row, 1, keep);
  return out;
}

double row_estimate_us(const RowProblem& problem, const Cost& cost, const RowConfig& c,
                       const Arch& arch) {
  const double rows = static_cast<double>(problem.rows), row = static_cast<double>(problem.row);
  const double elements = rows * row, vector = c.vector;
  const double operations = elements > 0 ? cost.flops / elements : 0;
  // Of an element: the operations, conversions, and its part of an access and its address.
  const double per_element = 1.5 * operations + 4 + 14 / vector;
  if (!problem.reduces || problem.column) {
    StreamingKernel k;
    k.bytes = cost.bytes;
    k.threads = c.threads;
    k.registers = 20 + 3 * c.vector;
    k.loads_at_once = vector * problem.loaded_bytes;
    if (problem.column) {
      const double per_row = c.threads_per_row;
      k.blocks = std::ceil(ceil_ratio(rows, vector) / (c.threads / per_row));
      k.steps = 1 + ceil_ratio(row, per_row);
      k.step_us = 0.15;
      k.loads_at_once *= std::min(4.0, k.steps);
      k.instructions = k.steps * vector * per_element;
    } else {
      k.blocks = ceil_ratio(elements, vector * c.threads);
      k.instructions = vector * per_element + 20;
    }
    k.pdl = c.pdl;
    return streaming_us(k, arch);
  }
  const double lanes = double(c.threads_per_row) * c.cluster;
  const double chunks = ceil_ratio(row, lanes * vector);  // accesses of a thread and row
  const double rows_per_block = double(c.threads) / c.threads_per_row;
  const double blocks = ceil_ratio(rows, rows_per_block * c.turns) * c.cluster;
  // Registers: what is kept of a row in f32 (registers) or as it was loaded (packed), and the rest.
  const double kept = c.keep == "registers" ? chunks * vector * 1.5
                      : c.keep == "packed"  ? chunks * vector * problem.loaded_bytes / 4
                                            : 0;
  int registers = static_cast<int>(30 + kept + 2 * vector) + (c.turns > 1 ? 8 : 0);
  if (c.blocks_per_sm > 0)
    registers = std::min(registers, arch.registers_per_sm / (c.threads * c.blocks_per_sm));
  const double smem =
      c.keep == "shared" ? row / c.cluster * rows_per_block * problem.loaded_bytes : 0;
  const int most = std::max(1, resident_blocks(arch, c.threads, registers, static_cast<int>(smem)));
  const Waves waves = waves_of(blocks, most, arch);

  // Accesses in flight at once: all of a row that is kept whole, a few where each is used up first.
  const double at_once = c.keep == "none" ? std::min(chunks, 2.0) : chunks;
  const double in_flight = waves.resident * c.threads * at_once * vector * problem.loaded_bytes;
  const double dram = cost.bytes / dram_rate(arch, waves.busy_sms, in_flight);
  const double share = std::max(ceil_ratio(blocks, arch.num_sms) / blocks, 1.0 / arch.num_sms);
  const double walks = c.keep == "registers" ? 1 : 2;  // what is not kept is computed again
  const double traffic = cost.bytes * (c.keep == "none" ? 1.4 : 1);
  const double sm = traffic * share / sm_rate(arch);
  const double idle = chunks * lanes * vector / row;  // lanes beyond the row's end
  const double math = lanes_us(arch, elements * share * per_element * walks * idle +
                                         blocks * share * c.threads * 60 * c.turns);
  // One round of blocks: loads, steps that wait for one another, exchanges among warps.
  const double step_us = c.keep == "none" ? 0.12 : c.keep == "shared" ? 0.08 : 0.02;
  const double warps = std::max(1.0, c.threads_per_row / 32.0);
  const double exchange =
      (c.threads_per_row > 32 ? 2 * kBarrierUs + 0.002 * warps : 0.02) + (c.cluster > 1 ? 0.35 : 0);
  const double staging = c.keep == "shared" ? 0.12 : c.keep == "none" ? 0.25 : 0;
  const double chain =
      kDramLatencyUs + (chunks - 1) * step_us + vector * 0.012 + exchange + staging;
  const double alone = waves.rounds * (1 + 0.6 * (c.turns - 1)) * chain;
  return kLaunchUs + (c.pdl ? 0 : kNoPdlUs) +
         overlapped({dram, sm, math, alone, blocks / kBlocksPerUs});
}

Tolerance row_tolerance(const RowOutput& output) {
  // Random walk of the rounding errors of a sum, and of the operations before and after it.
  const double terms = std::sqrt(static_cast<double>(std::max<std::int64_t>(output.row, 1)));
  const double relative = output.exact ? 0 : 0x1p-22 * (8 + terms);
  const double absolute = output.sum ? relative * terms : relative;
  constexpr double kMaxShare = 1.0 / 64;
  switch (output.dtype) {
    case DType::bf16:
      return {0x1p-9 * 0.01 + absolute, 0x1p-7 + relative};
    case DType::f16:
      return {0x1p-12 * 0.01 + absolute, 0x1p-10 + relative};
    case DType::f32:
      return {absolute, (output.exact ? 0 : 0x1p-20) + relative};
    case DType::e4m3:  // 3 bits of mantissa, subnormals from 2^-9
      return {0x1p-9 + absolute, 0x1p-3 + relative};
    case DType::e5m2:  // 2 bits of mantissa, subnormals from 2^-16
      return {0x1p-16 + absolute, 0x1p-2 + relative};
    default:
      break;
  }
  if (output.exact) return {};
  if (output.position) return {static_cast<double>(output.row), 0, 0x1p-10};
  // Values lie `relative` times themselves from what another build gets, so that of those near n
  // about 2 n `relative` lie astride a tie; n is at most 255, but in i32, where the relative bound
  // speaks for the larger ones.
  return {1, output.dtype == DType::i32 ? relative : 0, std::min(kMaxShare, 512 * relative)};
}

}  // namespace quern
