// A kernel of one's own in a program of one's own: written in the kernel language, tuned for the
// GPU at hand, launched on the program's own memory and stream. Links quern::quern and nothing
// else.
//
//   embed_kernel [CACHE_FOLDER]
//
// Exits with 77 where there is no GPU, 1 if a result is wrong.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "autotune/row_kernel.h"
#include "runtime/base/error.h"

using namespace quern;

namespace {

// y = x / sqrt(mean(x^2) + eps), and of each row the largest magnitude of y.
constexpr const char* kText = R"(
  kernel norm(x: f32[rows, cols]; eps: f32) -> (y: f32[rows, cols], largest: f32[rows]) {
    normed  = x * rsqrt(mean[cols](x * x) + eps)
    y       = normed
    largest = max[cols](abs(normed))
  })";

constexpr int kRows = 1000, kCols = 768;
constexpr double kEps = 1e-5;

float input(int row, int col) { return std::sin(static_cast<float>(row * 31 + col)); }

/// The largest difference between the two outputs and a plain loop.
double worst_error(const std::vector<float>& y, const std::vector<float>& largest) {
  double worst = 0;
  for (int r = 0; r < kRows; ++r) {
    double squares = 0, peak = 0;
    for (int c = 0; c < kCols; ++c) squares += std::pow(input(r, c), 2.0);
    const double scale = 1 / std::sqrt(squares / kCols + kEps);
    for (int c = 0; c < kCols; ++c) {
      const double expected = input(r, c) * scale;
      peak = std::max(peak, std::fabs(expected));
      worst = std::max(worst, std::fabs(y[static_cast<std::size_t>(r * kCols + c)] - expected));
    }
    worst = std::max(worst, std::fabs(largest[static_cast<std::size_t>(r)] - peak));
  }
  return worst;
}

int run(const std::filesystem::path& cache) {
  const Context context(0);
  RowKernel norm(context, kText, {.cache = cache, .scalars = {{"eps", kEps}}});

  // Once for each GPU and shape: what is found stays in the cache. Rows may then vary.
  const ProblemReport report = norm.tune({{"rows", kRows}, {"cols", kCols}}, 10);
  std::printf("%s: %s\n", std::string(name(report.outcome)).c_str(),
              norm.ready({{"rows", kRows}, {"cols", kCols}}).description().c_str());

  // The program's own stream and memory: anything that the driver or the CUDA runtime gave it.
  CUstream stream = nullptr;
  CUdeviceptr x = 0, y = 0, largest = 0;
  const Driver& cuda = driver();
  std::vector<float> host(static_cast<std::size_t>(kRows) * kCols), peaks(kRows);
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kCols; ++c) host[static_cast<std::size_t>(r * kCols + c)] = input(r, c);
  check(cuda.StreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  const std::size_t bytes = host.size() * sizeof(float), peak_bytes = peaks.size() * sizeof(float);
  check(cuda.MemAlloc(&x, bytes));
  check(cuda.MemAlloc(&y, bytes));
  check(cuda.MemAlloc(&largest, peak_bytes));

  check(cuda.MemcpyHtoDAsync(x, host.data(), bytes, stream));
  norm.launch(stream, {{x, y, largest}}, {{"rows", kRows}, {"cols", kCols}});
  check(cuda.MemcpyDtoHAsync(host.data(), y, bytes, stream));
  check(cuda.MemcpyDtoHAsync(peaks.data(), largest, peak_bytes, stream));
  check(cuda.StreamSynchronize(stream));

  const double worst = worst_error(host, peaks);
  std::printf("worst error %.2g\n", worst);
  for (const CUdeviceptr address : {x, y, largest}) cuda.MemFree(address);
  cuda.StreamDestroy(stream);
  return worst < 1e-4 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (const std::string problem = driver_problem(); !problem.empty()) {
    std::printf("skipped: %s\n", problem.c_str());
    return 77;
  }
  try {
    return run(argc > 1 ? std::filesystem::path(argv[1])
                        : std::filesystem::temp_directory_path() / "quern_embed_kernel");
  } catch (const CompileError& error) {
    std::fprintf(stderr, "%s\n%s\n", error.what(), error.log().c_str());
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return 1;
}
