#include "templates/row/row.h"

#include <algorithm>
#include <bit>
#include <cmath>

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

class Proposals {
 public:
  Proposals(const RowProblem& problem, const Arch& arch) : problem_(problem), arch_(arch) {}

  void add(int threads, int threads_per_row, int vector, const std::string& keep, int cluster,
           int turns = 1, int blocks_per_sm = 0) {
    if (threads < 32 || threads > kMaxThreads || threads_per_row < 1 || vector < 1) return;
    const RowConfig config{threads, threads_per_row, vector, keep,
                           cluster, arch_.has_pdl(), turns,  blocks_per_sm};
    const Params params = to_params(config);
    if (row_reject_reason(problem_, config, arch_) ||
        std::find(known_.begin(), known_.end(), params) != known_.end())
      return;
    known_.push_back(params);
    configs_.push_back(config);
  }
  /// A row's threads make up a block of at least 128, and the row waits where there is room.
  void add_reducing(int threads_per_row, int vector, int cluster = 1, int rows_per_block = 0) {
    if (threads_per_row < 1) return;
    int threads = rows_per_block > 0 ? threads_per_row * rows_per_block : threads_per_row;
    if (rows_per_block == 0)
      while (threads < 128 && cluster == 1) threads *= 2;
    if (threads > kMaxThreads) return;
    add(threads, threads_per_row, vector, roomiest(threads, threads_per_row, vector, cluster),
        cluster);
  }
  void add_packed(int threads_per_row, int vector, int threads_on_sm) {
    const int threads = std::max(128, threads_per_row);
    add(threads, threads_per_row, vector, "packed", 1, 1, threads_on_sm / threads);
  }
  void add_shared(int threads_per_row, int vector) {
    const int threads = std::max(128, threads_per_row);
    add(threads, threads_per_row, vector, "shared", 1);
  }
  /// Blocks that fill the GPU once, twice or four times and go through all rows.
  void add_in_turns(int threads_per_row, int vector) {
    const int threads = std::max(128, threads_per_row);
    if (threads_per_row < 1 || threads > kMaxThreads ||
        !fits_registers(problem_, share_of(problem_, threads_per_row, 1, vector), threads, arch_))
      return;
    const std::int64_t at_once = std::int64_t{arch_.num_sms} *
                                 (arch_.max_threads_per_sm / threads) * threads / threads_per_row;
    for (const std::int64_t waves : {1, 2, 4}) {
      const auto turns = static_cast<std::uint64_t>(divide_up(problem_.rows, at_once * waves));
      if (turns > 1)
        add(threads, threads_per_row, vector, "registers", 1,
            static_cast<int>(std::min<std::uint64_t>(std::bit_ceil(turns), kMaxTurns)));
    }
  }
  std::string roomiest(int threads, int threads_per_row, int vector, int cluster) const {
    if (fits_registers(problem_, share_of(problem_, threads_per_row, cluster, vector), threads,
                       arch_))
      return "registers";
    const double rows = static_cast<double>(threads) / threads_per_row / cluster;
    const double bytes = static_cast<double>(problem_.row) * rows * problem_.loaded_bytes;
    return bytes + 4096 <= arch_.smem_per_block_bytes ? "shared" : "none";
  }
  std::vector<RowConfig> take() { return std::move(configs_); }

 private:
  const RowProblem& problem_;
  const Arch& arch_;
  std::vector<Params> known_;
  std::vector<RowConfig> configs_;
};

void propose_elementwise(Proposals& out, const std::vector<int>& vectors) {
  for (const int threads : {256, 128, 512, 1024, 64})
    for (const int vector : vectors) out.add(threads, threads, vector, "none", 1);
}

/// Neighbouring threads read neighbouring columns; the others of a block share those columns' rows.
void propose_columns(Proposals& out, const std::vector<int>& vectors) {
  for (const int lanes : {32, 16, 64, 8})
    for (const int threads : {256, 512, 1024, 128})
      for (const int vector : vectors) out.add(threads, threads / lanes, vector, "none", 1);
  for (const int vector : vectors) out.add(128, 1, vector, "none", 1);
}

void propose_rows(Proposals& out, const RowProblem& problem, const Arch& arch,
                  const std::vector<int>& vectors) {
  const bool few = problem.rows < arch.num_sms;
  const int first = vectors.front();
  const bool clusters = arch.cc() >= 90;
  const auto cluster_threads = [&](int cluster) {
    return std::max(64, threads_for(divide_up(problem.row, cluster), 16, first));
  };
  int usual = threads_for(problem.row, few ? 8 : 16, first);
  if (problem.row <= kWarpRow && !(few && problem.row > 256)) usual = std::min(usual, 32);
  if (clusters && problem.row > kClusterRow)
    for (const int cluster : {problem.row > 2 * kClusterRow ? 8 : 4, 8, 4, 2})
      out.add_reducing(cluster_threads(cluster), first, cluster);

  out.add_reducing(usual, first);
  if (few) {
    // A matter of latency: half the access width shortens what a thread does after its load.
    out.add_reducing(usual / 4, first);
    out.add_reducing(usual / 2, std::max(1, first / 2));
    out.add_packed(usual / 2, first, 0);
    out.add_reducing(usual / 2, first);
    out.add_reducing(usual / 4, std::max(1, first / 2));
  } else {
    // A matter of bytes in flight: of threads on an SM, times what each has loaded.
    out.add_reducing(usual / 2, first);
    out.add_shared(usual, first);
    out.add_in_turns(usual, first);
    out.add_packed(usual / 2, first, 0);
    out.add_shared(usual / 2, first);
    out.add_packed(usual, first, 0);
    out.add_in_turns(usual / 2, first);
    out.add_packed(usual / 2, first, arch.max_threads_per_sm * 3 / 4);
    out.add_packed(usual, first, arch.max_threads_per_sm);
    out.add_in_turns(2 * usual, first);
    out.add_shared(2 * usual, first);
  }
  for (const int per_row : {usual, 2 * usual, usual / 2, 4 * usual, usual / 4})
    for (const int vector : vectors) out.add_reducing(per_row, vector);
  if (clusters && 2 * problem.rows <= arch.num_sms)  // the other SMs have nothing to do
    for (const int cluster : {2, 4, 8})
      if (problem.row / cluster >= kMinClusterPart)
        out.add_reducing(cluster_threads(cluster), first, cluster);
  if (problem.rows > 1)
    for (const int per_row : {usual, usual / 2, 32, 16, 8})
      for (const int rows : {2, 4, 8})
        if (per_row * rows <= 512 && problem.row <= std::int64_t{128} * per_row)
          out.add_reducing(per_row, first, 1, rows);
  for (const int per_row : {usual, usual / 2})
    for (const char* keep : {"registers", "shared", "none"})
      out.add(std::max(per_row, 128), per_row, first, keep, 1);
  // As many threads as find work in every step, where powers of two leave some of them idle.
  const std::int64_t accesses = divide_up(problem.row, first);
  for (const std::int64_t steps : {1, 2, 3, 4}) {
    const std::int64_t threads = divide_up(divide_up(accesses, steps), 32) * 32;
    if (threads <= kMaxThreads) out.add_reducing(static_cast<int>(threads), first, 1, 1);
  }
  // Last resorts, for kernels that few of the above suit.
  for (const int per_row : {128, 256, 32, 1024})
    for (const char* keep : {"none", "shared"})
      out.add(std::max(per_row, 128), per_row, 1, keep, 1);
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
  if (config.keep == "registers" &&
      !fits_registers(problem, share, std::max(1, config.threads), arch))
    return fmt::format("{} threads have too few registers to keep {} elements of a row each",
                       config.threads, share);
  if (config.keep == "packed") {
    // What was loaded, the elements at hand in f32 and as they are stored, and the rest.
    constexpr double rest = 24;
    const double wanted =
        static_cast<double>(share) * problem.loaded_bytes / 4 + 2.0 * config.vector + rest;
    const int threads = config.threads * std::max(1, config.blocks_per_sm);
    if (wanted > std::min<double>(kMaxRegisters, arch.registers_per_sm / std::max(1, threads)))
      return fmt::format(
          "{} threads on an SM have too few registers to hold {} elements of a row "
          "each",
          threads, share);
  }
  const std::int64_t accesses = divide_up(problem.row, std::max(1, config.vector));
  const std::int64_t sharing = std::int64_t{config.threads_per_row} * config.cluster;
  if (sharing > 32 && sharing >= 2 * accesses)
    return fmt::format("a row is {} accesses: half of {} threads would find none", accesses,
                       sharing);
  return std::nullopt;
}

std::vector<RowConfig> row_candidates(const RowProblem& problem, const Arch& arch) {
  std::vector<int> vectors;
  const auto add_vector = [&](int elements) {
    const int vector = fitting_vector(problem, std::min(elements, 32));
    if (std::find(vectors.begin(), vectors.end(), vector) == vectors.end())
      vectors.push_back(vector);
  };
  add_vector(128 / problem.narrow_bits);
  add_vector(128 / problem.wide_bits);
  if (!problem.reduces || problem.column) add_vector(vectors.front() / 2);
  Proposals out(problem, arch);
  if (!problem.reduces)
    propose_elementwise(out, vectors);
  else if (problem.column)
    propose_columns(out, vectors);
  else
    propose_rows(out, problem, arch, vectors);
  return out.take();
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
