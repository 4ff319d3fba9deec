#include "templates/row/row.h"

#include <algorithm>
#include <cmath>

namespace quern {
namespace {

/// Elements of the widest access that divides the row.
std::int64_t vector_elements(const RowProblem& problem, int vector_bytes) {
  std::int64_t elements = std::max(1, vector_bytes / problem.element_bytes);
  while (problem.cols % elements != 0) elements /= 2;
  return elements;
}

}  // namespace

std::vector<Tunable> row_space() {
  return {{"threads", {32, 64, 96, 128, 192, 256, 384, 512, 768, 1024}},
          {"threads_per_row", {1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024}},
          {"vector_bytes", {1, 2, 4, 8, 16}},
          {"pdl", {true, false}}};
}

std::optional<std::string> row_reject_reason(const RowProblem& problem, const RowConfig& config,
                                             const Arch& arch) {
  if (config.threads > arch.max_threads_per_sm)
    return fmt::format("an SM of {} holds {} threads", arch.name(), arch.max_threads_per_sm);
  const std::int64_t vector = vector_elements(problem, config.vector_bytes);
  if (config.vector_bytes > problem.element_bytes &&
      vector * problem.element_bytes < config.vector_bytes)
    return fmt::format("rows of {} elements are no multiple of {} bytes", problem.cols,
                       config.vector_bytes);
  const std::int64_t vectors = problem.cols / vector;
  if (problem.reduces && config.threads_per_row > 32 && config.threads_per_row >= 2 * vectors)
    return fmt::format("a row is {} accesses: half of {} threads would find none", vectors,
                       config.threads_per_row);
  return std::nullopt;
}

std::vector<RowConfig> row_candidates(const RowProblem& problem, const Arch& arch) {
  const auto vector_bytes = static_cast<int>(vector_elements(problem, 16)) * problem.element_bytes;
  const std::int64_t vectors = problem.cols / vector_elements(problem, 16);
  std::vector<RowConfig> out;
  const auto add = [&](int threads, int threads_per_row, int bytes) {
    const RowConfig config{threads, threads_per_row, bytes, arch.has_pdl()};
    const bool known = std::any_of(out.begin(), out.end(), [&](const RowConfig& other) {
      return other.threads == threads && other.threads_per_row == threads_per_row &&
             other.vector_bytes == bytes;
    });
    if (!known && !row_reject_reason(problem, config, arch)) out.push_back(config);
  };
  const std::vector<int> widths = vector_bytes > problem.element_bytes && vector_bytes > 4
                                      ? std::vector<int>{vector_bytes, vector_bytes / 2}
                                      : std::vector<int>{vector_bytes};
  if (!problem.reduces) {
    for (const int bytes : widths)
      for (const int threads : {256, 128, 512, 64, 1024}) add(threads, threads, bytes);
    return out;
  }
  // The default: a warp for a short row, else a block of which each thread has one or two accesses.
  if (vectors <= 32) {
    add(128, 32, vector_bytes);
  } else {
    int threads = 64;
    while (threads < 1024 && threads * 2 < vectors) threads *= 2;
    add(threads, threads, vector_bytes);
  }
  for (const int bytes : widths) {
    for (const int threads : {128, 256, 512, 1024, 64, 32, 96, 192, 384, 768})
      add(threads, threads, bytes);
    for (const int per_row : {32, 16, 8, 4})
      if (vectors <= per_row * 16)
        for (const int threads : {128, 256}) add(threads, per_row, bytes);
  }
  return out;
}

Tolerance row_tolerance(DType dtype, std::int64_t cols) {
  const double sum =
      0x1p-22 * (8 + std::sqrt(static_cast<double>(std::max<std::int64_t>(cols, 1))));
  switch (dtype) {
    case DType::bf16:
      return {0x1p-9 * 0.01 + sum, 0x1p-7 + sum};
    case DType::f16:
      return {0x1p-12 * 0.01 + sum, 0x1p-10 + sum};
    case DType::f32:
      return {sum, 0x1p-20 + sum};
    default:
      return {0, 0};
  }
}

}  // namespace quern
